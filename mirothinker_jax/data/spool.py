"""Records of files that have no random access, in a temporary file that has.

The records of gzip and Parquet files are read once, in order, when the files are opened, and written out in
canonical form. That takes their uncompressed size on the disk that TMPDIR names, in every process, and one
record's memory. The file has no name: it is gone when the process ends, however it ends.
"""

from __future__ import annotations

import array
import functools
import os
import tempfile
import weakref
from collections.abc import Container, Iterable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from mirothinker_jax.data.fingerprint import RecordsDigest
from mirothinker_jax.data.paths import refuse_empty
from mirothinker_jax.data.records import Record, canonical_record
from mirothinker_jax.data.strict_json import DataError


class Spool:
    """A temporary file, which the files of one data path share. It is open as long as the object lives.

    Reading is safe from several threads.
    """

    def __init__(self):
        self._end = 0

    def append(self, content: bytes) -> int:
        """Writes; returns where it begins. Raises DataError where the disk has no room."""
        start = self._end
        try:
            while self._end < start + len(content):  # a disk that fills up takes a part first
                self._end += os.pwrite(self._descriptor, content[self._end - start :], self._end)
        except OSError as error:
            raise DataError(
                f"{tempfile.gettempdir()}: cannot hold the uncompressed records ({error.strerror}, after "
                f"{start / 1e9:.3g} GB); set TMPDIR to a folder on a larger disk"
            ) from None
        return start

    def read(self, start: int, size: int) -> bytes:
        """What `append` wrote there."""
        return os.pread(self._descriptor, size, start)

    @functools.cached_property
    def _descriptor(self) -> int:
        descriptor, path = tempfile.mkstemp()
        Path(path).unlink()
        weakref.finalize(self, os.close, descriptor)
        return descriptor


class SpooledConversations:
    """What `rows` gives, as a source.

    Args:
      name: of the file, for errors.
      rows: (line number, record as it is written).
    """

    def __init__(self, name: str, rows: Iterable[tuple[int, Any]], spool: Spool, ignore: Container[str] = ()):
        self.name, self._spool = name, spool
        places = array.array("q")  # line number, start, size of each record
        digest = RecordsDigest()
        for line, row in rows:
            record = canonical_record(row, f"{name}:{line}", ignore)
            digest.add(record)
            content = packed(record, f"{name}:{line}")
            places.extend((line, spool.append(content), len(content)))
        self._places = np.asarray(places).reshape(-1, 3)
        refuse_empty(name, len(self._places))
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Record:
        _, start, size = map(int, self._places[index])
        return msgpack.unpackb(self._spool.read(start, size))

    def location(self, index: int) -> str:
        """FILE:LINE, or FILE:RECORD where it has no lines."""
        return f"{self.name}:{self._places[index][0]}"


def packed(record: Record, where: str) -> bytes:
    """A record as msgpack. Raises DataError for what msgpack has no form for, such as numbers of more than 64 bits."""
    try:
        return msgpack.packb(record) or b""
    except (OverflowError, ValueError, TypeError) as error:
        raise DataError(f"{where}: record: no form in msgpack ({error}); write it as a string") from None
