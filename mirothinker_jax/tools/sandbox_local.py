"""A sandbox on this machine: sandbox_runner.py under bubblewrap, ended by killing everything in it.

Memory and processes of all of it together are limited by a cgroup where one can be had (cgroup.py), else by looking at
them while something runs (sandbox_watch.py; between uses all processes are stopped). Each process has limits of its own
besides. All of it dies with this process, however that ends.

With tools.unsafe_sandbox code runs as plain processes of this user: they can read this user's files, use the network,
be left behind, and only each of them is limited. For machines where none of that matters.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mirothinker_jax.config import ToolsConfig
from mirothinker_jax.tools import cgroup, sandbox_watch
from mirothinker_jax.tools.isolation import ENVIRONMENT, SCRATCH_BYTES, isolated_command, probe
from mirothinker_jax.tools.sandbox_interface import (
    OUTPUT_CHARS,
    Execution,
    FileRefused,
    SandboxDied,
    SandboxFailed,
)
from mirothinker_jax.tools.system_calls import filter_program

PROCESSES = 64
GRACE_S = 1.0  # for the answer of a sandbox whose code ran out of time
_START = "import json, sys; exec(json.loads(sys.stdin.buffer.readline()))"
_START_S = 20.0
_WRITE_S = 20.0
_ENDING_S = 2.0  # for killed processes to be gone
_OPEN_FILES = 256
_LINE_BYTES = 16 * OUTPUT_CHARS  # longest answer: every character may take an escape of several bytes


class LocalHost:
    """This machine, as the settings let it run sandboxes."""

    def __init__(self, settings: ToolsConfig):
        """Starts a sandbox once, to see that it works.

        Raises:
          ConfigError: no isolation on this machine; the message says what to install or set.
        """
        self.isolated = not settings.unsafe_sandbox
        self.memory_bytes = settings.sandbox_bytes
        self.parent = cgroup.find_parent(settings.sandbox_cgroup) if self.isolated else None
        limits = {
            "RLIMIT_AS": self.memory_bytes,
            "RLIMIT_FSIZE": SCRATCH_BYTES,
            "RLIMIT_NOFILE": _OPEN_FILES,
            "RLIMIT_CORE": 0,
        }
        if self.isolated:  # elsewhere it would count all processes of this user
            limits["RLIMIT_NPROC"] = PROCESSES
        said = json.dumps({"limits": limits, "chars": OUTPUT_CHARS, "isolated": self.isolated})
        self._program = [sys.executable, "-I", "-c", _START, said]
        # Sent, since no file of this package is in the sandbox, and what is in a command line is seen by `ps`.
        self.source = (
            json.dumps(Path(__file__).with_name("sandbox_runner.py").read_text("utf-8")).encode() + b"\n"
        )
        self._filter = filter_program() if self.isolated else None
        if self.isolated:
            with self.command() as (command, inherited):
                probe(command, self.source, inherited)

    async def create(self, seconds: float) -> LocalSandbox:
        """A sandbox; it lives until it is killed, so that `seconds` are the pool's to count. Raises SandboxFailed."""
        return await LocalSandbox.create(self)

    @contextlib.contextmanager
    def command(self) -> Iterator[tuple[list[str], tuple[int, ...]]]:
        """The command that starts a sandbox, and the descriptors that it inherits, open until the end of the block."""
        if not self.isolated:
            yield self._program, ()
        elif self._filter is None:
            yield isolated_command(self._program), ()
        else:
            reader, writer = os.pipe()
            try:
                with os.fdopen(writer, "wb") as pipe:  # 1 KB: it fits into the pipe
                    pipe.write(self._filter)
                yield isolated_command(self._program, reader), (reader,)
            finally:
                os.close(reader)


class LocalSandbox:
    """One running sandbox. Make it with `create`; always `kill` it."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        host: LocalHost,
        group: cgroup.Group | None,
        scratch: tempfile.TemporaryDirectory[str] | None,
    ):
        self._process, self._host, self._group, self._scratch = process, host, group, scratch
        self._turn = asyncio.Lock()
        self._reason = ""  # why it was killed, for the model
        self.files, self.commands = _Files(self), _Commands(self)

    @classmethod
    async def create(cls, host: LocalHost) -> LocalSandbox:
        """Starts one and waits until it is ready. Without isolation it runs in a temporary folder.

        Raises:
          SandboxFailed: it did not start.
        """
        scratch = None if host.isolated else tempfile.TemporaryDirectory(prefix="unsafe-sandbox-")
        folder = scratch.name if scratch else "/"
        try:
            # Bubblewrap's own processes and the runner come on top.
            group = cgroup.Group(host.parent, host.memory_bytes, PROCESSES + 8) if host.parent else None
            with host.command() as (command, inherited):
                process = await asyncio.create_subprocess_exec(
                    *(group.entering(command) if group else command),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.DEVNULL,
                    cwd=folder,
                    env=ENVIRONMENT | {"HOME": folder},
                    start_new_session=True,
                    limit=_LINE_BYTES,
                    pass_fds=inherited,
                )
        except OSError as error:
            raise SandboxFailed(f"the sandbox did not start: {error}") from error
        sandbox = cls(process, host, group, scratch)
        ready = b""
        try:
            assert process.stdin and process.stdout
            with contextlib.suppress(TimeoutError, ValueError, ConnectionError):
                async with asyncio.timeout(_START_S):
                    process.stdin.write(host.source)
                    ready = await process.stdout.readline()
        finally:
            if not ready:
                await asyncio.shield(sandbox.kill())
        if not ready:
            raise SandboxFailed("the sandbox did not start")
        return sandbox

    @property
    def alive(self) -> bool:
        """Whether it may be used again."""
        return not self._reason and self._process.returncode is None

    async def run_code(self, code: str, timeout_s: float) -> Execution:
        """As sandbox_interface.Sandbox says."""
        return await self._execute({"op": "code", "code": code}, timeout_s)

    async def _execute(self, request: dict[str, Any], timeout_s: float) -> Execution:
        answer = await self._ask({**request, "timeout_s": timeout_s}, timeout_s + GRACE_S)
        return _execution(answer)

    async def _ask(self, request: dict[str, Any], seconds: float, data: bytes = b"") -> dict[str, Any]:
        """The runner's answer to a request, which `data` follows. A sandbox that gives none is killed, and so is one
        whose caller gives up."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin and stdout
        async with self._turn:
            if self._reason:
                raise SandboxDied(self._reason)
            watch = asyncio.create_task(self._watch()) if self._host.isolated and not self._group else None
            answer: Any = None
            try:
                async with asyncio.timeout(seconds):
                    stdin.write(json.dumps(request).encode() + b"\n" + data)
                    await stdin.drain()
                    answer = json.loads(await stdout.readline())
            except TimeoutError:
                self._reason = self._reason or "its code ran too long and could not be ended"
            except (ConnectionError, ValueError):
                pass
            finally:
                if watch:
                    watch.cancel()
                if not isinstance(answer, dict):
                    await asyncio.shield(self.kill())
        if not isinstance(answer, dict):
            raise SandboxDied(self._reason)
        return answer

    async def _watch(self) -> None:
        while not self._reason:
            await asyncio.sleep(sandbox_watch.LOOK_S)
            self._reason = sandbox_watch.excess(self._process.pid, self._host.memory_bytes) or ""
        self._end_processes()

    def _end_processes(self) -> None:
        if self._group:
            self._group.kill()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    async def kill(self) -> None:
        """Ends every process of the sandbox; with isolation also those that detached themselves."""
        if self._group and self._group.ran_out_of_memory():
            self._reason = self._reason or sandbox_watch.too_much_memory(self._host.memory_bytes)
        self._reason = self._reason or "it ended before the code did"
        self._end_processes()
        if self._process.stdin:
            self._process.stdin.close()
        await self._process.wait()
        if self._group:
            with contextlib.suppress(TimeoutError):  # the next process to start removes it
                async with asyncio.timeout(_ENDING_S):
                    while not self._group.remove():
                        await asyncio.sleep(0.01)
        if self._scratch:
            self._scratch.cleanup()


class _Files:
    def __init__(self, sandbox: LocalSandbox):
        self._sandbox = sandbox

    async def write(self, path: str, data: bytes) -> None:
        request = {"op": "write", "path": path, "size": len(data)}
        answer = await self._sandbox._ask(request, _WRITE_S, data)
        if "error" in answer:
            raise FileRefused(str(answer["error"])[:OUTPUT_CHARS])


class _Commands:
    def __init__(self, sandbox: LocalSandbox):
        self._sandbox = sandbox

    async def run(self, command: str, timeout_s: float) -> Execution:
        return await self._sandbox._execute({"op": "command", "command": command}, timeout_s)


def _execution(answer: dict[str, Any]) -> Execution:
    """What the runner says, of which code may have had a hand."""
    code = answer.get("exit_code")
    return Execution(
        str(answer.get("output", ""))[:OUTPUT_CHARS],
        code if isinstance(code, int) else None,
        bool(answer.get("timed_out")),
        bool(answer.get("cut")),
        bool(answer.get("variables_lost")),
    )
