"""The task's folder: a folder of its own for each episode, with copies of the task's files, gone when the episode is.

Paths are relative to it. One that leads out of it is refused, by dots, as an absolute path or through a link, and so is
whatever is no plain file. A process that is killed leaves its folders behind; the next one to start removes them.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from mirothinker_jax.config import ConfigError

_PREFIX = "mirothinker-files-"
_PATH_CHARS = 1_024
MOST_BYTES = 1 << 26  # that the model may write, of a folder
MOST_FILES = 1_000


class PathRefused(Exception):
    """The message is for the model."""


class Workspace:
    """The folders of all episodes. `close` it."""

    def __init__(self) -> None:
        self._root: Path | None = None
        self._lock: int | None = None  # held as long as this process lives
        self._copies: dict[str, asyncio.Task[None]] = {}
        self._folders: dict[str, Path] = {}

    async def begin(self, episode: str, files: Sequence[str]) -> None:
        """Makes the episode's folder with copies of `files`, once for all tools that ask for it.

        Raises:
          ConfigError: a file cannot be read, or two have one name.
        """
        if episode not in self._copies:
            folder = self._folder(episode)
            self._copies[episode] = asyncio.create_task(asyncio.to_thread(_copy, files, folder))
        await asyncio.shield(self._copies[episode])

    async def end(self, episode: str) -> None:
        """Removes the episode's folder."""
        copy, folder = self._copies.pop(episode, None), self._folders.pop(episode, None)
        if copy is not None:
            await asyncio.wait([copy])
        if folder is not None:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def aclose(self) -> None:
        """Removes all folders. The workspace may be used again."""
        for episode in list(self._folders):
            await self.end(episode)
        if self._root is not None and self._lock is not None:
            shutil.rmtree(self._root, ignore_errors=True)
            os.close(self._lock)
        self._root = self._lock = None

    def paths(self, episode: str) -> list[tuple[str, int]]:
        """Path and bytes of every file in the folder, in order."""
        folder = self._folder(episode)
        found = []
        for above, _, names in os.walk(folder):
            for name in names:
                path = Path(above, name)
                with contextlib.suppress(OSError):
                    found.append((path.relative_to(folder).as_posix(), path.lstat().st_size))
        return sorted(found)

    def read(self, episode: str, path: str, most_bytes: int) -> bytes:
        """What is in a file. Raises PathRefused, also for more than `most_bytes`."""
        *above, name = self._parts(path)
        try:
            with self._opened(episode, above) as folder:
                descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
                with os.fdopen(descriptor, "rb") as file:
                    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                        raise PathRefused(f"{path} is no file")
                    data = file.read(most_bytes + 1)
        except OSError as error:
            raise PathRefused(_why(path, error)) from error
        if len(data) > most_bytes:
            raise PathRefused(f"{path} is larger than {most_bytes:,} bytes (tools.file_bytes)")
        return data

    def write(self, episode: str, path: str, data: bytes) -> None:
        """Writes a file, and the folders above it. Raises PathRefused, also where the folder is full."""
        *above, name = self._parts(path)
        there = self.paths(episode)
        if sum(size for _, size in there) + len(data) > MOST_BYTES or len(there) >= MOST_FILES:
            raise PathRefused(f"the folder is full: at most {MOST_BYTES:,} bytes in {MOST_FILES:,} files")
        try:
            with self._opened(episode, above, make=True) as folder:
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK
                with os.fdopen(os.open(name, flags, 0o644, dir_fd=folder), "wb") as file:
                    file.write(data)
        except OSError as error:
            raise PathRefused(_why(path, error)) from error

    @contextlib.contextmanager
    def _opened(self, episode: str, above: Sequence[str], make: bool = False) -> Iterator[int]:
        """A descriptor of the folder that those names lead to, none of which is a link."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
        folder = os.open(self._folder(episode), flags)
        try:
            for name in above:
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(name, dir_fd=folder)
                inner = os.open(name, flags, dir_fd=folder)
                os.close(folder)
                folder = inner
            yield folder
        finally:
            os.close(folder)

    @staticmethod
    def _parts(path: str) -> list[str]:
        """The names that a path is made of."""
        try:
            path.encode("utf-8")  # half a surrogate pair is not in any name
        except UnicodeEncodeError as error:
            raise PathRefused("this cannot be a path") from error
        if "\0" in path or len(path) > _PATH_CHARS:
            raise PathRefused("this cannot be a path")
        path = path.removeprefix("file:")
        parts = [part for part in PurePosixPath(path).parts if part != "."]
        if not parts or ".." in parts or path.startswith("/"):
            raise PathRefused(f"{path} is not in the task's folder; give a path as list_files shows it")
        return parts

    def _folder(self, episode: str) -> Path:
        folder = self._folders.get(episode)
        if folder is None:
            folder = self._folders[episode] = Path(tempfile.mkdtemp(prefix="task-", dir=self._own_root()))
        return folder

    def _own_root(self) -> Path:
        if self._root is None:
            _remove_left_behind()
            self._root = Path(tempfile.mkdtemp(prefix=_PREFIX))
            self._lock = os.open(self._root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        return self._root


def _copy(files: Sequence[str], folder: Path) -> None:
    for file in files:
        if not Path(file).is_file():
            raise ConfigError(f"{file}: a file of a task, which is not there or no file")
        target = folder / Path(file).name
        if target.exists():
            raise ConfigError(f"two files of a task are called {target.name}; rename one: {', '.join(files)}")
        try:
            shutil.copyfile(file, target)
        except OSError as error:
            raise ConfigError(f"{file}: a file of a task, which cannot be read ({error.strerror})") from error


def _remove_left_behind() -> None:
    """Removes folders of processes that were killed: nobody holds their lock."""
    for root in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            lock = os.open(root / ".lock", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(root, ignore_errors=True)
            finally:
                os.close(lock)


def _why(path: str, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return f"there is no {path} in the task's folder"
    return f"{path} cannot be used: {error.strerror or error}"
