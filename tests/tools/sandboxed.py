"""Running code in the sandbox, for its tests."""

import asyncio
import inspect
import os
import shutil
import time
from pathlib import Path

import pytest

from mirothinker_jax.config import ToolsConfig
from mirothinker_jax.config_episodes import SANDBOX_TOOLS
from mirothinker_jax.tools.build import build_tools
from mirothinker_jax.tools.executor import ToolExecutor
from mirothinker_jax.tools.sandbox_local import LocalHost
from mirothinker_jax.tools.spec import ToolCall

# In CI a missing bubblewrap fails these tests: isolation that nobody tests is none.
HAS_BWRAP = shutil.which("bwrap") is not None or os.environ.get("CI") == "true"
isolated = pytest.mark.skipif(not HAS_BWRAP, reason="bubblewrap is not installed")
BOTH = [pytest.param(False, marks=isolated, id="isolated"), pytest.param(True, id="unsafe")]
ARGUMENT = {"run_python_code": "code_block", "run_command": "command"}


def whole(text, tokens):
    return text, False


class Session:
    """An episode's calls, one after the other: of code or a dict of arguments, and a tool's name."""

    def __init__(self, tools, settings, executor):
        self.tools = {tool.spec.name: tool for tool in tools}
        self.settings, self.executor, self.calls = settings, executor, 0

    async def __call__(self, what, tool="run_python_code", episode="e", **more):
        arguments = {ARGUMENT[tool]: what} if isinstance(what, str) else what
        self.calls += 1
        call = ToolCall("", tool, {**arguments, **more})
        return await self.executor.execute(call, f"{episode}:{self.calls}.0")

    async def end(self, episode="e"):
        for tool in self.tools.values():
            await tool.end(episode)

    @property
    def pool(self):
        return self.tools["run_python_code"]._pool


def session(body, proxy_url=None, **settings):
    """What `body` (an async function of a Session) returns, with the sandbox tools under those settings."""

    async def main():
        config = ToolsConfig(**{"names": SANDBOX_TOOLS, "deadline_s": 10.0, **settings})
        tools = build_tools(config, proxy_url, "")
        async with ToolExecutor(tools, config, whole) as executor:
            return await body(Session(tools, config, executor))

    return asyncio.run(main())


def run(*blocks, unsafe=False, deadline_s=10.0):
    """Runs pieces of code one after the other; one result, or a list of them."""

    async def body(call):
        return [await call(code) for code in blocks]

    results = session(body, unsafe_sandbox=unsafe, deadline_s=deadline_s)
    return results[0] if len(results) == 1 else results


class Box:
    """A sandbox with 256 MiB of memory, and another one when it has died."""

    def __init__(self):
        self.loop = asyncio.Runner()
        self.host = LocalHost(ToolsConfig(sandbox_bytes=1 << 28))
        self.host.parent = None  # watched, also where there is a cgroup
        self.sandbox = None

    def use(self, call):
        async def main():
            if self.sandbox is None or not self.sandbox.alive:
                self.sandbox = await self.host.create(60)
            return await call(self.sandbox)

        return self.loop.run(main())

    def python(self, code, timeout_s=10.0):
        execution = self.use(lambda sandbox: sandbox.run_code(inspect.cleandoc(code), timeout_s))
        return execution.output.rstrip("\n")

    def shell(self, command, timeout_s=10.0):
        return self.use(lambda sandbox: sandbox.commands.run(command, timeout_s))

    def close(self):
        if self.sandbox is not None:
            self.loop.run(self.sandbox.kill())
        self.loop.close()


def processes_with(marker):
    """Ids of this machine's processes whose command line holds the marker."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if marker.encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def gone(marker, within_s=5.0):
    end = time.monotonic() + within_s
    while processes_with(marker) and time.monotonic() < end:
        time.sleep(0.02)
    return not processes_with(marker)


def detached(marker):
    """Code that leaves behind a process of its own session, which would outlive a plain kill."""
    return (
        "import subprocess, sys\n"
        f"subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(100)', '{marker}'],"
        " start_new_session=True)\n"
    )
