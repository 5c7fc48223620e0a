"""Files that appear whole or not at all, also when the process is killed while it writes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


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


def remove_scratch(folder: str | os.PathLike[str]) -> None:
    """Removes the scratch files that killed processes left in the folder and two levels below; nobody may be writing
    there."""
    for pattern in ("", "*/", "*/*/"):
        for path in Path(folder).glob(f"{pattern}.*.tmp"):
            path.unlink(missing_ok=True)
