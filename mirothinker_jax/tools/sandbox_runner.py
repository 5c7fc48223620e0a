"""The program inside a sandbox: runs code, commands and writes files, and answers with what came of it.

sandbox_local.py sends its source to a bare Python, so it imports the standard library only. Requests and answers are a
line of JSON each, on standard input and output; before the first request it says "ready":

    {"op": "code", "code": "1 + 1", "timeout_s": 5}    → {"output": "2\\n", "cut": false, "exit_code": 0, …}
    {"op": "command", "command": "ls", "timeout_s": 5} → the same
    {"op": "write", "path": "a", "size": 5}, 5 bytes   → {"path": "/home/user/a"} or {"error": "…"}

Code runs in one process that lives on, as in a notebook: variables stay, the value of a last expression is shown.
Output and errors are one stream, in the order in which they were written. Between requests every other process of
the sandbox is stopped: what was left in the background costs nothing until the next request. One that runs out of
time ends all of them; files stay, variables do not.

In its sandbox this is process 1: the code cannot kill or stop it, nor write to its memory, as it is not dumpable.
"""

import ast
import contextlib
import json
import linecache
import os
import resource
import select
import signal
import stat
import sys
import time
import traceback
import types
from pathlib import Path
from typing import BinaryIO

_DUMPABLE = 4  # PR_SET_DUMPABLE
_PIECE = 1 << 16
_READS = 64  # of 64 KiB: more than any pipe holds
_REAP_S = 0.1  # between looks for ended orphans, which count as processes until somebody looks


def allow_debugging(allowed: bool) -> None:
    """Whether another process of this user may read and write this one's memory."""
    with contextlib.suppress(ImportError, OSError):
        import ctypes

        ctypes.CDLL(None).prctl(_DUMPABLE, int(allowed), 0, 0, 0)


def limit(limits: dict[str, int]) -> None:
    """Limits this process and those that it starts."""
    for name, value in limits.items():
        number = getattr(resource, name)
        hard = resource.getrlimit(number)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(number, (value, value))


def run_block(code: str, name: str, module: types.ModuleType) -> int:
    """Runs a piece of code in the module's namespace. Returns the exit status."""
    linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)  # for tracebacks
    status = 0
    try:
        tree = ast.parse(code, name)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, name, "exec"), module.__dict__)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), name, "eval"), module.__dict__)
            if value is not None:
                sys.stdout.write(f"{value!r}\n")
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if status and not isinstance(stop.code, int):
            sys.stderr.write(f"{stop.code}\n")
    except BaseException as error:
        status = 1
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename != name:
            trace = trace.tb_next  # a frame of this file, not of the code
        sys.stderr.write("".join(traceback.format_exception(error.with_traceback(trace))))
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    return status & 255


def serve_blocks(requests: int, answers: int) -> None:
    """The process that code runs in: a line with code comes, a line with its exit status goes."""
    sys.stdin = open(0, encoding="utf-8")  # noqa: SIM115 - lives as long as the process
    sys.stdout = open(1, "w", encoding="utf-8", errors="replace", buffering=1)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="replace", buffering=1)  # noqa: SIM115
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    process = os.getpid()
    with open(requests, "rb") as lines:
        for number, line in enumerate(lines, 1):
            status = run_block(json.loads(line), f"<code {number}>", module)
            if os.getpid() != process:  # the code forked, and this is the child
                os._exit(status)
            os.write(answers, b"%d\n" % status)


class Process:
    """A child, its output, and how it says that it has done what was asked: by a line of `answers`, or by ending."""

    def __init__(self, limits: dict[str, int], command: str | None):
        self.output, writer = os.pipe()
        source, self.requests = os.pipe()
        self.answers, target = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self._start(limits, command, source, target, writer)
            except BaseException as error:
                os.write(2, f"{error}\n".encode(errors="replace"))
            finally:
                os._exit(126)
        for end in (writer, source, target):
            os.close(end)
        self.ended = os.pidfd_open(self.pid)

    def _start(
        self, limits: dict[str, int], command: str | None, source: int, target: int, writer: int
    ) -> None:
        os.setsid()
        allow_debugging(True)
        nothing = os.open(os.devnull, os.O_RDONLY)
        wanted = ((nothing, 0), (writer, 1), (writer, 2))
        for old, new in wanted:
            os.dup2(old, new)
        keep = {0, 1, 2} if command is not None else {0, 1, 2, source, target}
        for descriptor in range(3, 256):
            if descriptor not in keep:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
        limit(limits)
        if command is None:
            serve_blocks(source, target)
            return
        os.chdir(os.environ["HOME"])
        shell = "/bin/bash" if Path("/bin/bash").exists() else "/bin/sh"
        os.execv(shell, [shell, "-c", command])

    def wait(
        self, timeout_s: float, output: bytearray, chars: int, mine: set[int]
    ) -> tuple[bool, int | None]:
        """Collects output until the child is done. Returns whether it ended, and its exit status if it is done."""
        deadline = time.monotonic() + timeout_s
        watched = [self.output, self.answers, self.ended]
        while (left := deadline - time.monotonic()) > 0:
            ready = select.select(watched, [], [], min(left, _REAP_S))[0]
            reap(mine)
            if self.output in ready and not collect(self.output, output, chars):
                watched.remove(self.output)
            if self.ended in ready:
                return True, os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            if self.answers in ready:
                words = os.read(self.answers, 64).split()
                if words and words[0].isdigit():
                    return False, int(words[0])
                watched.remove(self.answers)  # the code has closed it
        return False, None

    def send(self, code: str) -> None:
        """Gives it code to run, after forgetting what it wrote when nobody waited for it."""
        drain(self.output, bytearray(), 0)
        drain(self.answers, bytearray(), 0)
        with contextlib.suppress(BrokenPipeError):
            os.write(self.requests, json.dumps(code).encode() + b"\n")

    def close(self) -> None:
        """Closes the pipes to it."""
        for end in (self.output, self.requests, self.answers, self.ended):
            os.close(end)


def drain(reader: int, output: bytearray, chars: int) -> None:
    """Collects what is in a pipe that a process in the background may hold open."""
    for _ in range(_READS):
        if not select.select([reader], [], [], 0)[0] or not collect(reader, output, chars):
            break


def reap(mine: set[int]) -> None:
    """Forgets orphans that have ended: all but those processes."""
    with contextlib.suppress(ChildProcessError):
        while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if ended.si_pid in mine:
                break
            os.waitpid(ended.si_pid, 0)


def collect(reader: int, output: bytearray, chars: int) -> bool:
    """Reads what is there; keeps enough bytes to tell whether there are more than `chars` characters."""
    piece = os.read(reader, 65536)
    output += piece[: max(0, 4 * chars + 4 - len(output))]
    return bool(piece)


class Runner:
    """Answers requests. `isolated`: every other process that it can signal is of its sandbox."""

    def __init__(self, limits: dict[str, int], chars: int, isolated: bool):
        # A signal to all is meant for a sandbox alone: outside, it would reach all processes of the user.
        assert not isolated or os.getpid() == 1, "not alone in a process namespace"
        self.limits, self.chars, self.isolated = limits, chars, isolated
        self.blocks: Process | None = None

    def answer(self, op: str, **request: object) -> dict[str, object]:
        """What a request comes to; only while it is answered do other processes run."""
        if op == "write":
            return write(sys.stdin.buffer, **request)  # pyright: ignore[reportArgumentType]
        self.signal_all(signal.SIGCONT)
        try:
            return self.execute(op == "code", **request)  # pyright: ignore[reportArgumentType]
        finally:
            self.signal_all(signal.SIGSTOP)

    def execute(
        self, is_code: bool, timeout_s: float, code: str = "", command: str = ""
    ) -> dict[str, object]:
        output, lost = bytearray(), False
        if is_code:
            lost = self.forget_dead_blocks()
            process = self.blocks = self.blocks or Process(self.limits, None)
            process.send(code)
        else:
            process = Process(self.limits, command)
        mine = {process.pid} | ({self.blocks.pid} if self.blocks else set())
        ended, status = process.wait(timeout_s, output, self.chars, mine)
        if status is None:
            self.end_all(mine)
        else:
            self.signal_all(signal.SIGSTOP)  # so that draining has an end
        drain(process.output, output, self.chars)
        if self.blocks is not None and (status is None or (is_code and ended)):
            self.blocks.close()
            self.blocks, lost = None, True
        if not is_code:
            process.close()
        text = output.decode("utf-8", errors="replace")
        return {
            "output": text[: self.chars],
            "cut": len(text) > self.chars,
            "exit_code": status,
            "timed_out": status is None,
            "variables_lost": lost,
        }

    def forget_dead_blocks(self) -> bool:
        """Whether the process with the variables ended by itself since it was last used."""
        if self.blocks is None or not select.select([self.blocks.ended], [], [], 0)[0]:
            return False
        os.waitpid(self.blocks.pid, 0)
        self.blocks.close()
        self.blocks = None
        return True

    def signal_all(self, number: int) -> None:
        """Signals every process of the sandbox but this one, at once: no fork escapes."""
        if self.isolated:
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, number)

    def end_all(self, mine: set[int]) -> None:
        """Ends every process; outside a sandbox, those processes and what is in their sessions."""
        self.signal_all(signal.SIGKILL)
        for pid in mine:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def write(source: BinaryIO, path: str, size: int) -> dict[str, object]:
    """Writes the next `size` bytes to a file, with the folders above it, whole or not at all. Relative paths are of the
    home folder."""
    target, left = Path(os.environ["HOME"], path), size
    try:
        part = target.with_name(f"{target.name}.{os.getpid()}.part")
        target.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(target) and not stat.S_ISREG(target.lstat().st_mode):
            raise FileExistsError("there is something there that is no file")
        try:
            with part.open("xb") as file:
                while left:
                    piece = source.read(min(left, _PIECE))
                    left -= len(piece)
                    file.write(piece)
            part.replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink()
            raise
    except (OSError, ValueError) as error:
        while left:
            left -= len(source.read(min(left, _PIECE)))
        return {"error": f"cannot write {target}: {getattr(error, 'strerror', None) or error}"}
    return {"path": str(target)}


def main() -> None:
    """Answers requests until there are no more."""
    # Not for Ctrl-C in the terminal to end: whoever started this decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    allow_debugging(False)
    runner = Runner(**json.loads(sys.argv[1]))
    answer: object = "ready"
    while True:
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
        line = sys.stdin.buffer.readline()
        if not line:
            return
        answer = runner.answer(**json.loads(line))


if __name__ == "__main__":
    main()
