"""Conversations as a tfds dataset, for interchange; neither writing nor reading it needs TensorFlow.

    folder = write_trajectories({"train": records}, "datasets")

is then read by `--config.data.path=tfds:FOLDER/train`, or, where the environment has TFDS_DATA_DIR=datasets,
by `--config.data.path=tfds:mirothinker_trajectories/train`.

tfds decodes its features about fifteen times slower than msgpack: for training, `write_array_record` is the
better file. tfds shuffles the examples while it writes, always in the same way. Left out: downloading
datasets (every process of a run would start one).
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from mirothinker_jax.data.fingerprint import digest_of_files
from mirothinker_jax.data.paths import refuse_empty
from mirothinker_jax.data.records import Record, canonical_record
from mirothinker_jax.data.strict_json import DataError, parse_json


class TfdsConversations:
    """A split of a prepared tfds dataset in ArrayRecord format with a `messages` feature.

    `messages` is a sequence of {role, content}, and may have other keys of a message, `tool_calls` and the
    like as JSON text, and `extra_json`: further keys. Records are checked when they are first read.
    """

    def __init__(self, path: str, ignore: Collection[str] = ()):
        self.name, self._ignore = path, ignore
        name, _, split = path.removeprefix("tfds:").rpartition("/")
        if not name or not split:
            raise DataError(f"{path}: path: not a dataset and a split; write tfds:NAME/SPLIT")
        try:
            if Path(name).is_dir():
                builder: Any = tfds.builder_from_directory(name)
            else:
                builder = tfds.builder(name, file_format="array_record")
            self._records: Sequence[Any] = builder.as_data_source(split)
            self._files = builder.info.splits[split].file_instructions
        except Exception as error:  # whatever the dataset's own code raises
            reason = (str(error).strip() or type(error).__name__).partition("\n")[0]
            raise DataError(
                f"{path}: dataset: cannot be opened ({reason}); prepare it with file_format='array_record', "
                "and set TFDS_DATA_DIR or give its folder as NAME"
            ) from None
        refuse_empty(path, len(self._records))

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        where = self.location(index)
        try:
            record = _text(self._records[index])
            if "messages" in record:
                record["messages"] = [_with_extras(message) for message in _rows(record["messages"])]
            record = _with_extras(record)
        except (ValueError, TypeError) as error:
            raise DataError(
                f"{where}: messages: {error}; see data/trajectories_tfds.py for the features"
            ) from None
        return canonical_record(record, where, self._ignore)

    def location(self, index: int) -> str:
        """tfds:NAME/SPLIT:RECORD, from 1."""
        return f"{self.name}:{index + 1}"

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the split's files."""
        return self._digest

    @functools.cached_property
    def _digest(self) -> str:
        part = repr([(file.skip, file.take) for file in self._files])
        return digest_of_files([tfds.core.Path(file.filename) for file in self._files], self._ignore, part)


class MirothinkerTrajectories(tfds.core.GeneratorBasedBuilder):
    """One example per conversation: `messages` with role, content and extra_json; and its own extra_json.

    extra_json is a JSON object of all other keys, as text; "" where there are none. Content that is null
    (beside tool calls) becomes "".
    """

    VERSION = tfds.core.Version("1.0.0")
    # Nothing is downloaded. Looking for checksums, tfds 4.9.10 imports a package that it does not depend on.
    url_infos: ClassVar[dict[str, Any]] = {}

    def __init__(self, *, splits: Mapping[str, Sequence[Mapping[str, Any]]] | None = None, **options: Any):
        """`splits`: the records of each split; needed to write only."""
        self._splits = splits or {}
        super().__init__(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text
        return tfds.core.DatasetInfo(
            builder=self,
            description="Conversations of a research agent, with its thoughts, tool calls and tool results.",
            features=tfds.features.FeaturesDict(
                {
                    "messages": tfds.features.Sequence(
                        {"role": text(), "content": text(), "extra_json": text()}
                    ),
                    "extra_json": text(),
                }
            ),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {split: self._generate_examples(records) for split, records in self._splits.items()}

    def _generate_examples(
        self, records: Sequence[Mapping[str, Any]]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for i, record in enumerate(records):
            canonical = canonical_record(record, f"record {i + 1}")
            messages = [
                {
                    "role": message["role"],
                    "content": message["content"] or "",
                    "extra_json": _json_of_others(message, ("role", "content")),
                }
                for message in canonical["messages"]
            ]
            yield i, {"messages": messages, "extra_json": _json_of_others(canonical, ("messages",))}


def write_trajectories(
    splits: Mapping[str, Sequence[Mapping[str, Any]]], data_dir: str | os.PathLike[str]
) -> str:
    """Writes `{split: records}` below `data_dir` and returns the dataset's folder; whole or not at all.

    Records are written in canonical form: `name` and `tool_call_id` of messages, which no model sees, are not kept.

    Raises:
      DataError: a record that `canonical_record` refuses.
      ValueError: the dataset is there already.
    """
    builder = MirothinkerTrajectories(splits=splits, data_dir=os.fspath(data_dir), file_format="array_record")
    if builder.is_prepared():
        raise ValueError(f"{builder.data_dir} exists already; remove it, or write to another folder")
    builder.download_and_prepare()
    return os.fspath(builder.data_dir)


def _json_of_others(record: Mapping[str, Any], known: tuple[str, ...]) -> str:
    others = {key: value for key, value in record.items() if key not in known}
    return json.dumps(others, ensure_ascii=False) if others else ""


def _text(value: Any) -> Any:
    """tfds gives text as bytes: the same value with strings, all the way down."""
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, Mapping):
        return {key: _text(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_text(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def _rows(messages: Any) -> list[dict[str, Any]]:
    """Messages as a list of objects: tfds turns a sequence of objects into an object of sequences."""
    if not isinstance(messages, dict):
        return messages
    return [dict(zip(messages, row, strict=True)) for row in zip(*messages.values(), strict=True)]


def _with_extras(value: dict[str, Any]) -> dict[str, Any]:
    others = {key: item for key, item in value.items() if key != "extra_json"}
    return others | parse_json(value.get("extra_json") or "{}")
