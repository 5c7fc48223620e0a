"""Conversations as a tfds dataset, for interchange; neither writing nor reading it needs TensorFlow.

    folder = write_trajectories({"train": records}, "datasets")

is then read by `--config.data.path=tfds:FOLDER/train`, or, where the environment has TFDS_DATA_DIR=datasets,
by `--config.data.path=tfds:mirothinker_trajectories/train`.

tfds decodes its features about fifteen times slower than msgpack: for training, `write_array_record` is the
better file. tfds shuffles the examples while it writes, always in the same way.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from mirothinker_jax.data.messages import check_record


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
            messages = [
                {
                    "role": message["role"],
                    "content": message.get("content") or "",
                    "extra_json": _json_of_others(message, ("role", "content")),
                }
                for message in check_record(record, f"record {i + 1}")
            ]
            yield i, {"messages": messages, "extra_json": _json_of_others(record, ("messages",))}


def write_trajectories(
    splits: Mapping[str, Sequence[Mapping[str, Any]]], data_dir: str | os.PathLike[str]
) -> str:
    """Writes `{split: records}` below `data_dir` and returns the dataset's folder; whole or not at all.

    Raises:
      DataError: a record that `check_record` refuses.
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
