"""Conversations as random-access sources, whatever file they are in.

Records are canonical (data/records.py). JSON Lines, gzip and Parquet are what people write: every record is
read and checked when the file is opened. ArrayRecord and tfds are what programs write: their records are
checked when they are first read. Every error is one line, `FILE:LINE: field: what is wrong; way out` (a
record's number, from 1, where a file has no lines).

Not safe: files that change while they are open.
"""

from __future__ import annotations

import bisect
import itertools
import os
from collections.abc import Collection, Sequence
from typing import Protocol

from mirothinker_jax.data.fingerprint import RecordsDigest, digest_of_parts
from mirothinker_jax.data.jsonl import JsonlConversations, gzip_records
from mirothinker_jax.data.parquet import parquet_records
from mirothinker_jax.data.paths import READABLE, named_files, refuse_empty
from mirothinker_jax.data.records import Record, canonical_record
from mirothinker_jax.data.spool import Spool, SpooledConversations
from mirothinker_jax.data.strict_json import DataError


class ConversationSource(Protocol):
    """What data/loader.py reads. `source[i]` may be called from several threads."""

    @property
    def name(self) -> str:
        """The path that was opened."""
        ...

    @property
    def fingerprint(self) -> str:
        """64 hexadecimal digits that change when any record does (data/fingerprint.py)."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record:
        """A canonical record. Raises DataError."""
        ...

    def location(self, index: int) -> str:
        """Where the record is, for error messages: FILE:LINE."""
        ...


def open_conversations(path: str, ignore: Collection[str] = ()) -> ConversationSource:
    """Opens `path`: files, globs and `tfds:NAME/SPLIT`, separated by commas, one after the other.

    Args:
      path: a glob's files come in sorted order. NAME may be a dataset's folder instead of its name.
      ignore: keys of records and messages to drop, as data.ignore has them.

    Raises:
      DataError: no such file, one of an unknown kind, an empty one, or a wrong record in a file that people write.
    """
    ignore, spool = frozenset(ignore), Spool()
    sources: list[ConversationSource] = []
    parts = [path] if os.path.lexists(path) else path.split(",")  # a file's name may hold a comma
    for part in filter(None, map(str.strip, parts)):
        if part.startswith("tfds:"):
            # A second or two, so only for those who need it.
            from mirothinker_jax.data.trajectories_tfds import TfdsConversations

            sources.append(TfdsConversations(part, ignore))
        else:
            sources.extend(_open_file(file, kind, spool, ignore) for file, kind in named_files(part))
    if not sources:
        raise DataError(f"data.path {path!r} names no file; give {READABLE}")
    return sources[0] if len(sources) == 1 else Concatenated(sources, path)


def _open_file(path: str, kind: str, spool: Spool, ignore: frozenset[str]) -> ConversationSource:
    try:
        if kind == "jsonl":
            return JsonlConversations(path, ignore)
        if kind == "gzip":
            return SpooledConversations(path, gzip_records(path), spool, ignore)
        if kind == "parquet":
            return SpooledConversations(path, parquet_records(path, ignore), spool, ignore)
        from mirothinker_jax.data.array_record import ArrayRecordConversations

        return ArrayRecordConversations(path, ignore)
    except OSError as error:
        raise DataError(f"{path}: file: cannot be read ({error.strerror})") from None


class Conversations:
    """Records in memory. `name` stands for the file in error messages."""

    def __init__(self, records: Sequence[Record], name: str = "conversations", ignore: Collection[str] = ()):
        self.name = name
        refuse_empty(name, len(records))
        digest = RecordsDigest()
        self._records = [canonical_record(r, self.location(i), ignore) for i, r in enumerate(records)]
        for record in self._records:
            digest.add(record)
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        return self._records[index]

    def location(self, index: int) -> str:
        """NAME:RECORD, from 1."""
        return f"{self.name}:{index + 1}"


class Concatenated:
    """Several sources, one after the other."""

    def __init__(self, sources: Sequence[ConversationSource], name: str):
        self.name, self._sources = name, sources
        self._ends = list(itertools.accumulate(map(len, sources)))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Record:
        source, index = self._find(index)
        return source[index]

    def location(self, index: int) -> str:
        """That of the source which holds it."""
        source, index = self._find(index)
        return source.location(index)

    @property
    def fingerprint(self) -> str:
        """Of the sources' fingerprints, in order."""
        return digest_of_parts(source.fingerprint for source in self._sources)

    def _find(self, index: int) -> tuple[ConversationSource, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect.bisect_right(self._ends, index)
        return self._sources[number], index - (self._ends[number - 1] if number else 0)
