"""Lines of JSON that are only ever appended, each with a checksum: files that a killed process leaves whole.

A line is the CRC-32 of its JSON in eight hex digits, a space, and the JSON: `cut -c10- FILE | jq` reads it. A killed
process leaves at most half a line, which the next writer takes off. Two processes cannot append to one file. Nothing is
synchronised to disk before the file is closed: a machine that stops may lose the last seconds.
"""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CRC_CHARS = 9  # eight digits and the space


class BusyError(OSError):
    """Another process is writing to the file."""


def open_for_append(path: Path) -> io.FileIO:
    """The file, made where it is not there, locked, and without half a line at its end.

    Raises OSError where it cannot be written, BusyError where somebody else does.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = io.FileIO(path, "a+")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            raise
        raise BusyError(error.errno, error.strerror, str(path)) from None
    file.truncate(_whole_lines_end(file))
    return file


def append(file: io.FileIO, value: Any) -> int:
    """Writes one line and returns where it begins, in bytes. Raises OSError where it cannot (a full disk), and then
    leaves no part of it."""
    text = json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return append_bytes(file, b"%08x %s\n" % (zlib.crc32(text), text))


def append_bytes(file: io.FileIO, data: bytes) -> int:
    """Writes all of `data`, or nothing, and returns where it begins. Raises OSError."""
    end = os.fstat(file.fileno()).st_size
    try:
        if file.write(data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        file.truncate(end)
        raise OSError(error.errno, error.strerror, str(file.name)) from None
    return end


def read_lines(path: Path) -> Iterator[tuple[int, int, bytes | None]]:
    """(number from 1, where its JSON begins, its JSON) of each whole line; None for one that does not fit its
    checksum."""
    start = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            yield number, start + CRC_CHARS, checked(line)
            start += len(line)


def checked(line: bytes) -> bytes | None:
    """The JSON of a whole line, with its line break; None where it does not fit its checksum."""
    text = line[CRC_CHARS:-1]
    return text if line[:CRC_CHARS] == b"%08x " % zlib.crc32(text) else None


def close(file: io.FileIO) -> None:
    """Flushes to disk and closes."""
    with file:
        os.fsync(file.fileno())


def _whole_lines_end(file: io.FileIO) -> int:
    """Bytes up to the last line break."""
    end = file.seek(0, os.SEEK_END)
    while end:
        begin = max(0, end - (1 << 16))
        file.seek(begin)
        block = file.read(end - begin) or b""
        if (at := block.rfind(b"\n")) >= 0:
            return begin + at + 1
        end = begin
    return 0
