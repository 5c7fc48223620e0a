"""The program inside a sandbox: reads code, runs each piece in a forked child, answers with its output.

Started by sandbox.py as `python -I -c SOURCE`, so it imports the standard library only. One request and
one answer are a line of JSON each, on standard input and output:

    {"code": "1 + 1", "timeout_s": 5, "limits": {"RLIMIT_CPU": 6, …}, "chars": 20000}
    {"output": "2\\n", "cut": false, "exit_code": 0, "timed_out": false}

Before the first request it says "ready".

A child's standard output and error are one stream, in the order in which they were written. As in a
notebook, the value of a last expression is shown. Files stay from one piece of code to the next,
variables do not. The code can break this process, which shares its user: it harms its own result only.
"""

import ast
import contextlib
import json
import linecache
import os
import resource
import select
import signal
import sys
import time
import traceback
import types

_POLL_S = 0.01  # between looks at a child that has closed its output but not ended


def run_in_child(code: str, limits: dict[str, int]) -> int:
    """Runs the code in this process, after limiting it. Returns the exit status."""
    for name, value in limits.items():
        number = getattr(resource, name)
        hard = resource.getrlimit(number)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(number, (value, value))
    sys.stdin = open(0, encoding="utf-8")  # noqa: SIM115 - lives as long as the process
    sys.stdout = open(1, "w", encoding="utf-8", errors="replace", buffering=1)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="replace", buffering=1)  # noqa: SIM115
    name = "<code>"
    linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)  # for tracebacks
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
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


def execute(code: str, timeout_s: float, limits: dict[str, int], chars: int) -> dict[str, object]:
    """Forks, waits and collects. What runs on after `timeout_s` is left to whoever ends the sandbox."""
    deadline = time.monotonic() + timeout_s
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            nothing = os.open(os.devnull, os.O_RDONLY)
            for source, target in ((nothing, 0), (writer, 1), (writer, 2)):
                os.dup2(source, target)
            os.closerange(3, 256)
            status = run_in_child(code, limits)
        finally:
            os._exit(status)
    os.close(writer)
    output, ended, at_end = bytearray(), None, False
    while ended is None and (left := deadline - time.monotonic()) > 0:
        if at_end:
            time.sleep(min(left, _POLL_S))
        elif select.select([reader], [], [], left)[0]:
            at_end = not _collect(reader, output, chars)
        found, status = os.waitpid(pid, os.WNOHANG)
        ended = status if found else None
    while select.select([reader], [], [], 0)[0] and _collect(reader, output, chars):
        pass  # what was written just before the end; a background process may hold the pipe open
    os.close(reader)
    text = output.decode("utf-8", errors="replace")
    return {
        "output": text[:chars],
        "cut": len(text) > chars,
        "exit_code": None if ended is None else os.waitstatus_to_exitcode(ended),
        "timed_out": ended is None,
    }


def _collect(reader: int, output: bytearray, chars: int) -> bool:
    """Reads what is there; keeps enough bytes to tell whether there are more than `chars` characters."""
    piece = os.read(reader, 65536)
    output += piece[: max(0, 4 * chars + 4 - len(output))]
    return bool(piece)


def main() -> None:
    # Not for Ctrl-C in the terminal to end: whoever started this decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answer: object = "ready"
    while True:
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
        line = sys.stdin.buffer.readline()
        if not line:
            return
        answer = execute(**json.loads(line))


if __name__ == "__main__":
    main()
