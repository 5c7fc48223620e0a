"""One run at a time in a folder: run.lock says which process has it, and since when.

The system lets go of the lock (flock) of a process that was killed, so what it leaves behind blocks nobody on that
machine. Between machines a lock may reach no further than the file itself, which is made by one of them alone: a file
of another machine is believed, and its removal is left to the user.

Left out: a sign of life by which another machine could see that a lock's process is gone.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
import time
from pathlib import Path
from typing import Any

from mirothinker_jax.config import ConfigError

NAME = "run.lock"
HELD_BY_ANOTHER = (errno.EAGAIN, errno.EACCES)
NO_LOCKS_HERE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)

logger = logging.getLogger(__name__)
_locks: list[RunLock] = []  # that this process holds


class RunLock:
    """A context manager. Entering makes the folder where there is none; leaving removes it again if it is empty.

    Raises ConfigError, on entering, where another run has the folder, or where it cannot be written to; OSError where
    the disk is full.
    """

    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder / NAME
        self._new: list[Path] = []  # folders that were not there, innermost first
        self._file: int | None = None

    def __enter__(self) -> RunLock:
        try:
            self._new = [path for path in (self.folder, *self.folder.parents) if not path.exists()]
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = self._acquire()
        except (FileExistsError, NotADirectoryError):
            wrong = next(p for p in (self.folder, *self.folder.parents) if p.exists() and not p.is_dir())
            raise ConfigError(f"config.run_dir: {wrong} is not a folder; give another one") from None
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise ConfigError(
                f"config.run_dir: {self.folder} cannot be written to ({error.strerror}); give another folder"
            ) from None
        _locks.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Lets go of the folder; harmless where that is done."""
        file, self._file = self._file, None
        if file is None:
            return
        _locks.remove(self)
        with contextlib.suppress(OSError):  # the folder is gone, or not writable any more
            if _is_file(self.path, file):
                self.path.unlink()
            for path in self._new:
                path.rmdir()  # fails, as it should, where something is in it
        os.close(file)

    def _acquire(self) -> int:
        while True:
            new, file = self._open()
            try:
                alone = _lock(file)
                if alone is False:
                    raise ConfigError(
                        f"config.run_dir: {self.folder} is in use by {_describe(_read(file))}; "
                        "wait until it has ended, stop it, or give another config.run_dir"
                    )
                if not _is_file(self.path, file):  # its owner has just removed it
                    os.close(file)
                    continue
                if not new:
                    self._check_gone(_read(file), alone)
                self._write(file)
            except BaseException:
                os.close(file)
                raise
            return file

    def _open(self) -> tuple[bool, int]:
        """Whether this process made the file, and its descriptor, which other programs do not inherit."""
        while True:
            with contextlib.suppress(FileExistsError):
                return True, os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
            with contextlib.suppress(FileNotFoundError):
                return False, os.open(self.path, os.O_RDWR)

    def _write(self, file: int) -> None:
        owner = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        }
        try:
            os.ftruncate(file, 0)
            os.pwrite(file, json.dumps(owner).encode() + b"\n", 0)
            os.fsync(file)
        except OSError:
            self.path.unlink(missing_ok=True)  # half a lock would say nothing
            raise

    def _check_gone(self, owner: dict[str, Any], alone: bool | None) -> None:
        """Raises ConfigError unless the file was left by a process that is gone. `alone`: the system says that no
        process of this machine has it; None: it cannot say."""
        here = owner.get("host") == socket.gethostname()
        if (alone and (here or not owner)) or (here and not _runs(owner["pid"])):
            logger.warning("%s: taken over from %s, which is gone", self.path, _describe(owner))
            return
        raise ConfigError(
            f"config.run_dir: {self.folder} is in use by {_describe(owner)}, which this machine "
            f"({socket.gethostname()}) cannot ask; if that run has ended, remove {self.path}"
        )


def release_all() -> None:
    """Lets go of every folder of this process, which is about to end on the spot."""
    for lock in list(_locks):
        lock.release()


def _lock(file: int) -> bool | None:
    """Whether the lock is ours now; None where the file system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in HELD_BY_ANOTHER:
            return False
        if error.errno in NO_LOCKS_HERE:
            return None
        raise
    return True


def _is_file(path: Path, file: int) -> bool:
    """Whether the open file is still the one of this name."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except FileNotFoundError:
        return False


def _read(file: int) -> dict[str, Any]:
    """What the lock says; {} where its process was killed before it could say it."""
    try:
        owner = json.loads(os.pread(file, 4096, 0))
        return {"host": str(owner["host"]), "pid": int(owner["pid"]), "since": str(owner["since"])}
    except (ValueError, KeyError, TypeError):
        return {}


def _describe(owner: dict[str, Any]) -> str:
    return (
        "process {pid} on {host} since {since}".format(**owner)
        if owner
        else "a process that did not say which"
    )


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
