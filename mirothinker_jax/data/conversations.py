"""Conversations in files, as random-access sources: JSONL, ArrayRecord, tfds (without TensorFlow), memory.

A record is `{"messages": [...], …}` (data/messages.py); other keys of it are carried along. JSONL is what
people write by hand, so every line of it is read and checked when the file is opened (about 40 MB/s; only
offsets stay in memory). ArrayRecord and tfds are what programs write: their records are checked when they
are first read. Every error is one line, `FILE:LINE: field: what is wrong; way out` (a record's number, from
1, where a file has no lines).

Left out: compressed JSONL; downloading tfds datasets (every process of a run would start one). Files must
not change while they are open.
"""

from __future__ import annotations

import array
import bisect
import glob
import itertools
import json
import mmap
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import msgpack
import numpy as np
from array_record.python import (
    array_record_data_source,
    array_record_module,  # pyright: ignore[reportAttributeAccessIssue] (compiled)
)

from mirothinker_jax.data.atomic import replacing
from mirothinker_jax.data.messages import DataError, check_record

Record = dict[str, Any]
_ARRAY_RECORD = (".arrayrecord", ".array_record")


class ConversationSource(Protocol):
    """What data/loader.py reads. `source[i]` may be called from several threads."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record:
        """A checked record. Raises DataError."""
        ...

    def location(self, index: int) -> str:
        """Where the record is, for error messages: FILE:LINE."""
        ...


def open_conversations(path: str) -> ConversationSource:
    """Opens `path`: files, globs and `tfds:NAME/SPLIT`, separated by commas, one after the other.

    A glob's files come in sorted order. NAME may be a dataset's folder instead of its name.

    Raises:
      DataError: no such file, one of an unknown kind, an empty one, or a wrong line in a JSONL file.
    """
    sources: list[ConversationSource] = []
    for part in filter(None, (p.strip() for p in path.split(","))):
        if part.startswith("tfds:"):
            sources.append(TfdsConversations(part))
            continue
        files = [part] if Path(part).exists() else sorted(glob.glob(part, recursive=True))  # noqa: PTH207
        if not files:
            raise DataError(f"{part}: no such file; check data.path (now in {Path.cwd()})")
        sources.extend(map(_open_file, files))
    if not sources:
        raise DataError(f"data.path {path!r} names no file; give *.jsonl, *.arrayrecord or tfds:NAME/SPLIT")
    return sources[0] if len(sources) == 1 else Concatenated(sources)


class Conversations:
    """Records in memory. `name` stands for the file in error messages."""

    def __init__(self, records: Sequence[Record], name: str = "conversations"):
        self._records, self._name = records, name
        _refuse_empty(name, len(records))
        for i, record in enumerate(records):
            check_record(record, self.location(i))

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        return self._records[index]

    def location(self, index: int) -> str:
        return f"{self._name}:{index + 1}"


class JsonlConversations:
    """One JSON object a line; blank lines are skipped."""

    def __init__(self, path: str | os.PathLike[str]):
        self._path = os.fspath(path)
        _refuse_empty(self._path, Path(path).stat().st_size)
        with Path(path).open("rb") as file:
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        lines = array.array("q")  # line number, start, end of each record
        start = 0
        for line, content in enumerate(iter(self._bytes.readline, b""), 1):
            if content.strip():
                self._parse(content, f"{self._path}:{line}")
                lines.extend((line, start, start + len(content)))
            start += len(content)
        self._lines = np.asarray(lines).reshape(-1, 3)
        _refuse_empty(self._path, len(self._lines))

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> Record:
        _, start, end = self._lines[index]
        return self._parse(self._bytes[start:end], self.location(index))

    def location(self, index: int) -> str:
        return f"{self._path}:{self._lines[index][0]}"

    @staticmethod
    def _parse(content: bytes, where: str) -> Record:
        try:
            record = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{where}: line: unreadable JSON ({error}); put one object on each line"
            ) from None
        check_record(record, where)
        return record


class ArrayRecordConversations:
    """One ArrayRecord file whose records are msgpack or JSON objects, as `write_array_record` makes them."""

    def __init__(self, path: str | os.PathLike[str]):
        self._path = os.fspath(path)
        _refuse_empty(self._path, Path(path).stat().st_size)
        try:
            self._records = array_record_data_source.ArrayRecordDataSource([self._path])
        except (RuntimeError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise DataError(f"{self._path}: file: not ArrayRecord ({reason}); write it anew") from None
        _refuse_empty(self._path, len(self._records))

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        content, where = self._records[index], self.location(index)
        try:  # no msgpack map begins with "{"
            record = json.loads(content) if content[:1] == b"{" else _unpack(content)
        except (ValueError, msgpack.UnpackException) as error:
            raise DataError(
                f"{where}: record: neither msgpack nor JSON ({error}); "
                "a tfds dataset is read as tfds:NAME/SPLIT"
            ) from None
        check_record(record, where)
        return record

    def location(self, index: int) -> str:
        return f"{self._path}:{index + 1}"


class TfdsConversations:
    """A split of a prepared tfds dataset in ArrayRecord format with a `messages` feature.

    `messages` is a sequence of {role, content}, and may have `tool_calls` as JSON text, `weight`, and
    `extra_json`: further keys of the message (data/trajectories_tfds.py writes them so).
    """

    def __init__(self, path: str):
        self._path = path
        name, _, split = path.removeprefix("tfds:").rpartition("/")
        if not name or not split:
            raise DataError(f"{path}: path: not a dataset and a split; write tfds:NAME/SPLIT")
        import tensorflow_datasets as tfds  # a second or two, so only for those who need it

        try:
            if Path(name).is_dir():
                builder: Any = tfds.builder_from_directory(name)
                records = builder.as_data_source(split)
            else:
                records = tfds.data_source(name, split=split, download=False)
        except Exception as error:  # whatever the dataset's own code raises
            reason = (str(error).strip() or type(error).__name__).partition("\n")[0]
            raise DataError(
                f"{path}: dataset: cannot be opened ({reason}); prepare it with file_format='array_record', "
                "and set TFDS_DATA_DIR or give its folder as NAME"
            ) from None
        self._records = cast(Sequence[Any], records)
        _refuse_empty(path, len(self._records))

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        where = self.location(index)
        record = _text(self._records[index])
        try:
            extra = json.loads(record.pop("extra_json", "") or "{}")
            if "messages" in record:
                record["messages"] = _message_list(record["messages"])
        except (ValueError, TypeError) as error:
            raise DataError(
                f"{where}: messages: {error}; see data/conversations.py for the features"
            ) from None
        record |= extra
        check_record(record, where)
        return record

    def location(self, index: int) -> str:
        return f"{self._path}:{index + 1}"


class Concatenated:
    """Several sources, one after the other."""

    def __init__(self, sources: Sequence[ConversationSource]):
        self._sources = sources
        self._ends = list(itertools.accumulate(map(len, sources)))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Record:
        source, index = self._find(index)
        return source[index]

    def location(self, index: int) -> str:
        source, index = self._find(index)
        return source.location(index)

    def _find(self, index: int) -> tuple[ConversationSource, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect.bisect_right(self._ends, index)
        return self._sources[number], index - (self._ends[number - 1] if number else 0)


def write_array_record(records: Iterable[Record], path: str | os.PathLike[str]) -> int:
    """Writes checked records to an ArrayRecord file, as msgpack, whole or not at all. Returns their number.

    Raises:
      DataError: a record that `check_record` refuses, or none at all.
    """
    count = 0
    with replacing(path) as scratch:
        # Groups of one: a random read then unpacks one record, not its neighbours too.
        writer = array_record_module.ArrayRecordWriter(os.fspath(scratch), "group_size:1")
        try:
            for count, record in enumerate(records, 1):
                check_record(record, f"record {count}")
                writer.write(msgpack.packb(record, unicode_errors="surrogatepass"))
        finally:
            writer.close()
        _refuse_empty(os.fspath(path), count)
    return count


def _open_file(path: str) -> ConversationSource:
    if Path(path).suffix in (".jsonl", ".json"):
        return JsonlConversations(path)
    if Path(path).suffix in _ARRAY_RECORD:
        return ArrayRecordConversations(path)
    raise DataError(
        f"{path}: file: unknown kind; name it *.jsonl or *{_ARRAY_RECORD[0]}, or use tfds:NAME/SPLIT"
    )


def _refuse_empty(name: str, size: int) -> None:
    if not size:
        raise DataError(f"{name}: file: is empty; it must hold at least one conversation")


def _unpack(content: bytes) -> Any:
    return msgpack.unpackb(content, unicode_errors="surrogatepass")  # JSON's \\u escapes allow half a pair


def _text(value: Any) -> Any:
    """tfds gives text as bytes: the same value with strings, all the way down."""
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, Mapping):
        return {key: _text(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_text(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def _message_list(messages: Any) -> list[dict[str, Any]]:
    """Messages as a list of objects: tfds turns a sequence of objects into an object of sequences."""
    if isinstance(messages, dict):
        columns = messages.values()
        messages = [dict(zip(messages, row, strict=True)) for row in zip(*columns, strict=True)]
    for message in messages:
        message.update(json.loads(message.pop("extra_json", "") or "{}"))
        calls = message.get("tool_calls")
        if isinstance(calls, str):
            message["tool_calls"] = json.loads(calls or "[]")
    return messages
