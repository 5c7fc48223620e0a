"""run_python_code: a model's code in a sandbox of its own, ended by killing everything in it.

A call without sandbox_id gets a fresh sandbox that is gone afterwards. With one, files (not variables)
stay for later calls of the SAME episode under that id. Method names follow e2b-code-interpreter (create,
run_code, kill), so that a hosted sandbox can take this one's place.

With tools.unsafe_sandbox the code runs as a plain process of this user: it can read this user's files,
use the network, and leave processes behind. For machines where none of that matters.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import signal
import sys
import tempfile
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mirothinker_jax.config import ToolsConfig
from mirothinker_jax.tools.isolation import ENVIRONMENT, SCRATCH_BYTES, isolated_command, probe
from mirothinker_jax.tools.spec import Failure, ToolError, ToolSpec

OUTPUT_CHARS = 20_000
MEMORY_BYTES = 1 << 30  # address space of each process
PROCESSES = 64
_GRACE_S = 1.0  # for the answer of a sandbox whose code ran out of time
_NAMED = 64  # sandboxes with an id at once; the least recently used one is killed
_IDLE_S = 600.0  # an unused one with an id is killed, as E2B does
_LINE_BYTES = 16 * OUTPUT_CHARS  # longest answer: every character may take an escape of several bytes

SPEC = ToolSpec(
    server="tool-python",
    name="run_python_code",
    description="Runs Python code and returns what it prints and the value of its last expression.",
    parameters={
        "type": "object",
        "properties": {
            "code_block": {"type": "string", "minLength": 1, "description": "the code"},
            "sandbox_id": {"type": "string", "description": "calls with the same id share files"},
        },
        "required": ["code_block"],
        "additionalProperties": False,
    },
    repeatable=False,
    concurrent=False,  # a later call may read the files of an earlier one
    aliases=("python", "python_code"),
    argument_aliases={"code": "code_block"},
)


@dataclass(frozen=True)
class Execution:
    output: str  # standard output and error as they came, at most OUTPUT_CHARS
    exit_code: int | None  # negative: killed by that signal; None: still running
    timed_out: bool = False
    cut: bool = False  # there was more output


class SandboxDied(Exception):
    """The process that runs the code ended: the code killed it, or the machine ran out of something."""


class Sandbox:
    """One running sandbox. Make it with `create`; always `kill` it."""

    def __init__(self, process: asyncio.subprocess.Process, scratch: tempfile.TemporaryDirectory | None):
        self._process = process
        self._scratch = scratch
        self._turn = asyncio.Lock()

    @classmethod
    async def create(cls, command: list[str], isolated: bool) -> Sandbox:
        """Starts `command`, which runs sandbox_runner.py, and waits until it is ready.

        Without isolation it runs in a temporary folder.

        Raises:
          SandboxDied: it did not start.
        """
        scratch = None if isolated else tempfile.TemporaryDirectory(prefix="unsafe-sandbox-")
        folder = scratch.name if scratch else "/"
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            cwd=folder,
            env=ENVIRONMENT | {"HOME": folder},
            start_new_session=True,
            limit=_LINE_BYTES,
        )
        sandbox = cls(process, scratch)
        try:
            assert process.stdout
            if not await process.stdout.readline():
                raise SandboxDied("the sandbox did not start")
        except BaseException:
            await asyncio.shield(sandbox.kill())
            raise
        return sandbox

    async def run_code(self, code: str, timeout_s: float, limits: Mapping[str, int]) -> Execution:
        """Runs one piece of code, after those before it.

        Raises:
          SandboxDied: there is no sandbox any more; `kill` it and make another.
        """
        request = {"code": code, "timeout_s": timeout_s, "limits": dict(limits), "chars": OUTPUT_CHARS}
        process = self._process
        assert process.stdin and process.stdout
        async with self._turn:
            try:
                async with asyncio.timeout(timeout_s + _GRACE_S):
                    process.stdin.write(json.dumps(request).encode() + b"\n")
                    await process.stdin.drain()
                    line = await process.stdout.readline()
                return Execution(**json.loads(line))
            except TimeoutError:
                return Execution("", None, timed_out=True)
            except (ConnectionError, ValueError, TypeError) as error:
                raise SandboxDied("the sandbox ended before the code did") from error

    async def kill(self) -> None:
        """Ends every process of the sandbox; with isolation also those that detached themselves."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        if self._process.stdin:
            self._process.stdin.close()
        await self._process.wait()
        if self._scratch:
            self._scratch.cleanup()


class RunPython:
    """The tool. One instance serves all episodes; their named sandboxes are kept apart."""

    spec = SPEC

    def __init__(self, settings: ToolsConfig):
        """Starts a sandbox once, to see that it works.

        Raises:
          ConfigError: no isolation on this machine; the message says what to install or set.
        """
        program = [
            sys.executable,
            "-I",
            "-c",
            Path(__file__).with_name("sandbox_runner.py").read_text("utf-8"),
        ]
        self._isolated = not settings.unsafe_sandbox
        self._command = isolated_command(program) if self._isolated else program
        if self._isolated:
            probe(self._command)
        # Its own limit ends the code before the call's deadline does: a long run is the model's fault, and
        # it should see what was printed.
        self._timeout_s = max(settings.deadline_s - 2 * _GRACE_S, settings.deadline_s / 2)
        self._limits = {
            "RLIMIT_CPU": math.ceil(self._timeout_s) + 1,
            "RLIMIT_AS": MEMORY_BYTES,
            "RLIMIT_FSIZE": SCRATCH_BYTES,
            "RLIMIT_NOFILE": 256,
            "RLIMIT_CORE": 0,
        }
        if self._isolated:  # elsewhere it would count all processes of this user
            self._limits["RLIMIT_NPROC"] = PROCESSES
        self._named: OrderedDict[tuple[str, str], tuple[Sandbox, float]] = OrderedDict()

    async def run(self, arguments: Mapping[str, Any], request_id: str) -> str:
        episode, name = request_id.rpartition(":")[0], arguments.get("sandbox_id", "")
        key = (episode, name) if name else None
        try:
            sandbox = await self._take(key)
        except SandboxDied as error:  # the machine's fault, not the model's
            raise ToolError(Failure.NETWORK, str(error)) from error
        keep = False
        try:
            execution = await sandbox.run_code(arguments["code_block"], self._timeout_s, self._limits)
            keep = key is not None and not execution.timed_out
        except SandboxDied as error:
            raise ToolError(Failure.TOOL_ERROR, str(error)) from error
        finally:  # also when the call is cancelled
            if not keep:
                if key is not None and self._named.get(key, (None,))[0] is sandbox:
                    del self._named[key]
                await asyncio.shield(sandbox.kill())
        return self._text(execution)

    async def _take(self, key: tuple[str, str] | None) -> Sandbox:
        """The sandbox of that name, or a new one; those that nobody used for long are killed."""
        now = time.monotonic()
        old = [k for k, (_, used) in self._named.items() if now - used > _IDLE_S and k != key]
        if key is not None and key not in self._named and len(self._named) - len(old) >= _NAMED:
            old.append(next(k for k in self._named if k not in old))
        for stale in old:
            await self._named.pop(stale)[0].kill()
        if key is None:
            return await Sandbox.create(self._command, self._isolated)
        held = self._named.pop(key, None)
        sandbox = held[0] if held else await Sandbox.create(self._command, self._isolated)
        if key in self._named:  # a call beside this one was faster: one sandbox for both
            await sandbox.kill()
            sandbox = self._named.pop(key)[0]
        self._named[key] = (sandbox, now)  # as the last one used
        return sandbox

    def _text(self, execution: Execution) -> str:
        text = execution.output.rstrip("\n")
        if execution.cut:
            text += f"\n(output cut at {OUTPUT_CHARS:,} characters)"
        if execution.timed_out:
            text += f"\nkilled: the code ran longer than {self._timeout_s:g} s"
        elif execution.exit_code and execution.exit_code < 0:
            text += f"\nkilled by signal {signal.Signals(-execution.exit_code).name}"
        elif execution.exit_code and not text:
            text = f"exit code {execution.exit_code}"
        if execution.exit_code != 0:
            raise ToolError(Failure.TOOL_ERROR, text.lstrip("\n"))
        return text or "(no output)"

    async def aclose(self) -> None:
        """Kills all named sandboxes. The tool may be used again."""
        named = [sandbox for sandbox, _ in self._named.values()]
        self._named.clear()
        for sandbox in named:
            await sandbox.kill()
