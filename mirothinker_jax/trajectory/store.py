"""Trajectories on disk: JSONL that a person can read and that training can be repeated from, bit by bit.

Log-probs are float32 written as the shortest decimal that reads back as the same float32's value, so a
recorded rollout gives the same batch as the one it was recorded from.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mirothinker_jax.trajectory.types import Segment, Source, Stop, Trajectory


def to_json(trajectory: Trajectory) -> dict[str, Any]:
    record = dataclasses.asdict(trajectory)
    for segment in record["segments"]:
        if segment["source"] is not Source.POLICY:
            del segment["logprobs"]
    return record


def from_json(record: dict[str, Any]) -> Trajectory:
    segments = tuple(
        Segment(Source(s["source"]), tuple(s["tokens"]), s["text"], tuple(s.get("logprobs", ())))
        for s in record["segments"]
    )
    return Trajectory(**{**record, "segments": segments, "stop": Stop(record["stop"])})


def write(path: str | os.PathLike[str], trajectories: Iterable[Trajectory]) -> None:
    """Writes all or nothing: a file that is there is whole."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        for trajectory in trajectories:
            file.write(json.dumps(to_json(trajectory), ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def share(path: Path, index: int, count: int) -> Path:
    """The name of process `index`'s part of a record; with one process, the record's own.

    >>> share(Path("step_3.jsonl"), 0, 2).name
    'step_3.0-of-2.jsonl'
    """
    return path if count == 1 else path.with_name(f"{path.stem}.{index}-of-{count}{path.suffix}")


def read(path: str | os.PathLike[str]) -> Iterator[Trajectory]:
    with Path(path).open(encoding="utf-8") as file:
        for line in file:
            yield from_json(json.loads(line))
