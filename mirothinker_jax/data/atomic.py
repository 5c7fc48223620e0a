"""Files that appear whole or not at all, also when the process is killed while it writes."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives the path of a scratch file beside `path`, which takes `path`'s place when the block ends well.

    The scratch file is flushed to disk before it is renamed. When the block raises, `path` is left as it was
    and the scratch file is removed; after a SIGKILL it may stay behind, under a name ending in `.tmp`.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        yield scratch
        with scratch.open("rb+") as file:
            os.fsync(file.fileno())
        scratch.replace(target)
    finally:
        scratch.unlink(missing_ok=True)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes a JSON value for people to read, whole or not at all. Half a surrogate pair becomes its escape. Raises
    ValueError for a number that is not finite, TypeError for what is not JSON."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    _write_text(path, f"{text}\n")


def write_json_lines(path: str | os.PathLike[str], records: Iterable[Any]) -> None:
    """The same of JSON Lines."""
    _write_text(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def _write_text(path: str | os.PathLike[str], text: str) -> None:
    with replacing(path) as scratch:
        scratch.write_text(text, encoding="utf-8", errors="backslashreplace")


def remove_scratch(folder: str | os.PathLike[str]) -> None:
    """Removes the scratch files that killed processes left in the folder and two levels below; nobody may be writing
    there."""
    for pattern in ("", "*/", "*/*/"):
        for path in Path(folder).glob(f"{pattern}.*.tmp"):
            path.unlink(missing_ok=True)
