"""How a run ends before its end: one line and an exit code instead of a traceback.

Every file of a run is there as a whole or not at all, at any moment, so a signal ends the process on the spot:
nothing is waited for, be it a step, a compilation or a checkpoint that is being written. Unusual: a thread of its own
hears the signals, since the main thread may be inside of a call for minutes.

Imports no jax: what is here holds from the first line of a command on.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator

from mirothinker_jax.pipeline.lock import release_all

# Exit codes, as in sysexits.h.
STORAGE = 74  # EX_IOERR: the disk is full, or a file of the run cannot be read or written
OUTAGE = 75  # EX_TEMPFAIL: services that episodes need were down
SIGNALS = (signal.SIGINT, signal.SIGTERM)  # the exit code is 128 + the signal's number, as a shell's
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
BROKEN = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ESTALE)


@contextlib.contextmanager
def one_line_endings() -> Iterator[None]:
    """Within the block, SIGINT, SIGTERM, and a full disk that a thread meets, end the process in one line.

    A signal that was ignored (nohup, a script's background job) stays so. Does nothing outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    heard = [s for s in SIGNALS if signal.getsignal(s) is not signal.SIG_IGN]
    handlers = {s: signal.signal(s, lambda *_: None) for s in heard}
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    hook, threading.excepthook = threading.excepthook, _end_by_thread
    watcher = threading.Thread(target=_watch, args=(reader,), name="signals", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        threading.excepthook = hook
        signal.set_wakeup_fd(wakeup)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.close(writer)  # which ends the watcher
        watcher.join()
        os.close(reader)


def storage_failure(error: BaseException | None, folder: str = "") -> str | None:
    """What to say where an error, or one that it came from, is about storage; None for other errors. `folder` is named
    where the error names no file."""
    for each in _family(error):
        if isinstance(each, OSError) and each.filename and each.errno in BROKEN:
            return (
                f"{each.filename}: {os.strerror(each.errno)}; mend that, and the same command resumes the run"
            )
        # Libraries wrap the system's error in a text of their own.
        number = next(
            (n for n in FULL if getattr(each, "errno", 0) == n or os.strerror(n) in str(each)), None
        )
        if number is not None:
            where = (each.filename if isinstance(each, OSError) else None) or folder
            return (
                f"{where}{': ' * bool(where)}{os.strerror(number)}; nothing is lost but the steps since the last "
                "checkpoint: make room, and the same command resumes the run"
            )
    return None


def _family(error: BaseException | None) -> Iterator[BaseException]:
    """The error, the members of a group, and what they were raised from or while handling."""
    todo, seen = [error], set()
    while todo:
        each = todo.pop(0)
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        todo += [*getattr(each, "exceptions", ()), each.__cause__, each.__context__]


def _watch(reader: int) -> None:
    while numbers := os.read(reader, 64):
        for number in numbers:
            if number in SIGNALS:
                _leave(
                    f"stopped by {signal.Signals(number).name}; the same command resumes the run",
                    128 + number,
                )


def _end_by_thread(args: threading.ExceptHookArgs) -> None:
    line = storage_failure(args.exc_value)
    if line is None:
        threading.__excepthook__(args)
    else:
        _leave(f"error: {line}", STORAGE)


def _leave(line: str, code: int) -> None:
    """Ends the process now, whatever its other threads hold or wait for."""
    with contextlib.suppress(Exception):
        release_all()
    bar = "\n" if sys.stderr.isatty() else ""  # a progress bar may stand in the last line
    with contextlib.suppress(OSError):
        os.write(2, f"{bar}{line}\n".encode())
    os._exit(code)
