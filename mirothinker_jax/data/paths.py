"""The files that a setting such as data.path names, and what is wrong with a path before anything of it is read."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mirothinker_jax.data.strict_json import DataError

# Ending → the kind of file.
ENDINGS = {
    ".jsonl": "jsonl",
    ".json": "jsonl",
    ".jsonl.gz": "gzip",
    ".json.gz": "gzip",
    ".parquet": "parquet",
    ".arrayrecord": "arrayrecord",
    ".array_record": "arrayrecord",
}
READABLE = "*.jsonl, *.jsonl.gz, *.parquet, *.arrayrecord or tfds:NAME/SPLIT"
_MAGIC = {b"\x1f\x8b": "gzip", b"PAR1": "parquet"}


class Content(NamedTuple):
    """What a setting's files hold, for errors: the setting, a record of theirs, and the kinds that can be read."""

    key: str
    item: str
    readable: str


CONVERSATIONS = Content("data.path", "conversation", READABLE)


def named_files(path: str, content: Content = CONVERSATIONS) -> Iterator[tuple[str, str]]:
    """(path, kind) of each file that `path`, one name or glob, stands for. A glob's files come in sorted order.

    Raises:
      DataError: no such file, something that is not a file, or one that cannot be read.
    """
    if "://" in path:
        raise DataError(f"{path}: file: not on this machine; copy it here, and give its path")
    paths = [path] if os.path.lexists(path) else sorted(glob.glob(path, recursive=True))  # noqa: PTH207
    if not paths:
        raise DataError(f"{path}: no such file; check {content.key} (now in {Path.cwd()})")
    for file in paths:
        yield file, _kind(file, content)


def refuse_empty(name: str, size: int, item: str = CONVERSATIONS.item) -> None:
    """Raises DataError where a file, or what is read from it, has no size."""
    if not size:
        raise DataError(f"{name}: file: is empty; it must hold at least one {item}")


def _kind(path: str, content: Content) -> str:
    try:
        status = Path(path).stat()
        mode = status.st_mode
        if stat.S_ISDIR(mode):
            raise DataError(f"{path}: file: is a folder; {_in_folder(path, content)}")
        if not stat.S_ISREG(mode):  # opening a pipe would wait for a writer, and no reader can go back in one
            raise DataError(f"{path}: file: is a pipe or a device; write the data to a file first")
        with Path(path).open("rb") as file:
            head = file.read(4)
    except FileNotFoundError:
        target = Path(path).readlink() if Path(path).is_symlink() else "a file that was here a moment ago"
        raise DataError(f"{path}: file: points to {target}, which does not exist; mend the link") from None
    except OSError as error:
        raise DataError(f"{path}: file: cannot be read ({error.strerror}); see to its permissions") from None
    ending = next((e for e in sorted(ENDINGS, key=len, reverse=True) if path.lower().endswith(e)), None)
    if ending is None:
        raise DataError(f"{path}: file: unknown kind; give {content.readable}")
    found, said = next((k for magic, k in _MAGIC.items() if head.startswith(magic)), None), ENDINGS[ending]
    if found and found != said:
        right = next(e for e, k in ENDINGS.items() if k == found)
        raise DataError(f"{path}: file: is {found}, not what its name says; name it *{right}")
    refuse_empty(path, status.st_size, content.item)
    return said


def _in_folder(path: str, content: Content) -> str:
    names = sorted(item.name for item in Path(path).iterdir())
    ending = next((e for e in ENDINGS for name in names if name.lower().endswith(e)), None)
    if ending:
        return f"give its files: {Path(path) / f'*{ending}'}"
    if any(".array_record-" in name for name in names):
        return f"if it is a tfds dataset, write tfds:{path}/SPLIT"
    return f"give files: {content.readable}"
