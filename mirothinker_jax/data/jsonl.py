"""JSON Lines: one record a line. Every line is read and checked when the file is opened.

Blank lines are skipped, lines may end in CR LF, and UTF-8 may begin with a byte order mark. Of a plain file
only offsets stay in memory. A compressed one cannot be read at random: its records are spooled (data/spool.py).
"""

from __future__ import annotations

import array
import gzip
import mmap
import zlib
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mirothinker_jax.data.fingerprint import RecordsDigest
from mirothinker_jax.data.paths import refuse_empty
from mirothinker_jax.data.records import Record, canonical_record
from mirothinker_jax.data.strict_json import DataError, parse_json

_BOM = b"\xef\xbb\xbf"


class JsonlConversations:
    """A plain file, mapped into memory."""

    def __init__(self, path: str, ignore: Container[str] = ()):
        self.name, self._ignore = path, ignore
        with Path(path).open("rb") as file:
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        lines = array.array("q")  # line number, start, end of each record
        digest = RecordsDigest()
        for line, start, content in _lines(self._bytes.readline, path):
            digest.add(self._record(content, f"{path}:{line}"))
            lines.extend((line, start, start + len(content)))
        self._lines = np.asarray(lines).reshape(-1, 3)
        refuse_empty(path, len(self._lines))
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> Record:
        _, start, end = self._lines[index]
        return self._record(self._bytes[start:end], self.location(index))

    def location(self, index: int) -> str:
        """FILE:LINE."""
        return f"{self.name}:{self._lines[index][0]}"

    def _record(self, content: bytes, where: str) -> Record:
        return canonical_record(_parsed(content, where), where, self._ignore)


def plain_records(path: str) -> Iterator[tuple[int, Any]]:
    """(line number, record as it is written) of a file of JSON Lines. Raises DataError for a line that is not JSON."""
    with Path(path).open("rb") as file:
        for line, _, content in _lines(file.readline, path):
            yield line, _parsed(content, f"{path}:{line}")


def gzip_records(path: str) -> Iterator[tuple[int, Any]]:
    """(line number, record as it is written) of a gzip file of JSON Lines.

    Raises:
      DataError: a damaged file, or a line that is not JSON.
    """
    try:
        with gzip.open(path) as file:
            for line, _, content in _lines(file.readline, path):
                yield line, _parsed(content, f"{path}:{line}")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        with Path(path).open("rb") as file:
            if file.read(2) != b"\x1f\x8b":
                raise DataError(f"{path}: file: is not gzip, as its name says; name it *.jsonl") from None
        raise DataError(f"{path}: file: damaged gzip ({error}); fetch or write it anew") from None


def _lines(readline: Callable[[], bytes], name: str) -> Iterator[tuple[int, int, bytes]]:
    """(number, offset, content) of each line that is not blank."""
    start = 0
    first = True
    for number, content in enumerate(iter(readline, b""), 1):
        if content.removeprefix(_BOM).strip():
            if first:
                _refuse_other_formats(content, name)
            first = False
            yield number, start, content
        start += len(content)


def _refuse_other_formats(line: bytes, name: str) -> None:
    """Raises DataError where a file's first line shows that none of them will be a record."""
    zeros = [
        byte == 0 for byte in line[:4]
    ]  # where ASCII characters have them when there is no byte order mark
    wide = None
    if line.startswith((b"\xff\xfe", b"\xfe\xff")) or zeros in ([0, 1, 0, 1], [1, 0, 1, 0]):
        wide = "UTF-16"
    if line.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")) or zeros in ([0, 1, 1, 1], [1, 1, 1, 0]):
        wide = "UTF-32"
    if wide:
        raise DataError(f"{name}: file: is {wide}; write it as UTF-8: iconv -f {wide} -t UTF-8 FILE > NEW")
    if line.removeprefix(_BOM).lstrip().startswith(b"["):
        raise DataError(
            f"{name}: file: is one JSON array; write one object on each line: jq -c '.[]' FILE > NEW.jsonl"
        )


def _parsed(content: bytes, where: str) -> Any:
    try:
        return parse_json(content)
    except ValueError as error:
        raise DataError(f"{where}: line: unreadable JSON ({error}); put one object on each line") from None
