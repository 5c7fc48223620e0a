"""ArrayRecord files of conversations: what programs write, and the fastest to read at random.

Records are msgpack or JSON objects, checked when they are first read. Errors give a record's number, from 1.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import msgpack
from array_record.python import (
    array_record_data_source,
    array_record_module,  # pyright: ignore[reportAttributeAccessIssue] (compiled)
)

from mirothinker_jax.data.atomic import replacing
from mirothinker_jax.data.fingerprint import digest_of_files
from mirothinker_jax.data.paths import refuse_empty
from mirothinker_jax.data.records import Record, canonical_record
from mirothinker_jax.data.spool import packed
from mirothinker_jax.data.strict_json import DataError, parse_json


class ArrayRecordConversations:
    """One file whose records are msgpack or JSON objects, as `write_array_record` makes them."""

    def __init__(self, path: str, ignore: Collection[str] = ()):
        self.name, self._ignore = path, ignore
        try:
            self._records = array_record_data_source.ArrayRecordDataSource([path])
        except (RuntimeError, ValueError) as error:
            reason = str(error).partition("\n")[0] or "cut off"
            raise DataError(f"{path}: file: not ArrayRecord ({reason}); write it anew") from None
        refuse_empty(path, len(self._records))

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        where = self.location(index)
        try:
            content = self._records[index]
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise DataError(f"{where}: record: damaged ({reason}); fetch or write the file anew") from None
        try:  # no msgpack map begins with "{"
            record = parse_json(content) if content[:1] == b"{" else _unpack(content)
        except (ValueError, msgpack.UnpackException) as error:
            raise DataError(
                f"{where}: record: neither msgpack nor JSON ({error}); "
                "a tfds dataset is read as tfds:NAME/SPLIT"
            ) from None
        return canonical_record(record, where, self._ignore)

    def location(self, index: int) -> str:
        """FILE:RECORD, from 1."""
        return f"{self.name}:{index + 1}"

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the file's bytes."""
        return self._digest

    @functools.cached_property
    def _digest(self) -> str:
        return digest_of_files([Path(self.name)], self._ignore)


def write_array_record(records: Iterable[Record], path: str | os.PathLike[str]) -> int:
    """Writes records, in canonical form, to an ArrayRecord file: whole or not at all. Returns their number.

    `name` and `tool_call_id` of messages, which no model sees, are not kept.

    Raises:
      DataError: a record that `canonical_record` refuses, or none at all.
    """
    count = 0
    with replacing(path) as scratch:
        # Groups of one: a random read then unpacks one record, not its neighbours too.
        writer = array_record_module.ArrayRecordWriter(os.fspath(scratch), "group_size:1")
        try:
            for count, record in enumerate(records, 1):
                canonical = canonical_record(record, f"record {count}")
                writer.write(packed(canonical, f"record {count}"))
        finally:
            writer.close()
        refuse_empty(os.fspath(path), count)
    return count


def _unpack(content: bytes) -> Any:
    # Half a surrogate pair, which msgpack should not hold, is then refused with its field.
    return msgpack.unpackb(content, unicode_errors="surrogatepass")
