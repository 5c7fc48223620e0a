"""Trajectories on disk: JSONL that a person can read and that training can be repeated from, bit by bit.

Log-probs are float32 written as the shortest decimal that reads back as the same float32's value, so a
recorded rollout gives the same batch as the one it was recorded from. Routes, where there are any, lie beside the
record, in NAME.routes.npz: one array per episode, under its id.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mirothinker_jax.data.atomic import replacing
from mirothinker_jax.trajectory.types import Segment, Source, Stop, Trajectory


def to_json(trajectory: Trajectory) -> dict[str, Any]:
    """A trajectory as JSON values, without its routes."""
    record = dataclasses.asdict(dataclasses.replace(trajectory, routes=None))
    del record["routes"]
    for segment in record["segments"]:
        if segment["source"] is not Source.POLICY:
            del segment["logprobs"]
    return record


def from_json(record: dict[str, Any]) -> Trajectory:
    """The trajectory of such a record."""
    segments = tuple(
        Segment(Source(s["source"]), tuple(s["tokens"]), s["text"], tuple(s.get("logprobs", ())))
        for s in record["segments"]
    )
    return Trajectory(**{**record, "segments": segments, "stop": Stop(record["stop"])})


def write(path: str | os.PathLike[str], trajectories: Iterable[Trajectory]) -> None:
    """Writes all or nothing: a file that is there is whole, and so are the routes beside it."""
    routes = {}
    with replacing(path) as scratch:
        with scratch.open("w", encoding="utf-8") as file:
            for trajectory in trajectories:
                file.write(json.dumps(to_json(trajectory), ensure_ascii=False) + "\n")
                if trajectory.routes is not None:
                    routes[trajectory.id] = trajectory.routes
        if routes:
            with replacing(_routes_path(path)) as scratch_routes, scratch_routes.open("wb") as file:
                np.savez(file, **routes)


def _routes_path(path: str | os.PathLike[str]) -> Path:
    return Path(path).with_suffix(".routes.npz")


def share(path: Path, index: int, count: int) -> Path:
    """The name of process `index`'s part of a record; with one process, the record's own.

    >>> share(Path("step_3.jsonl"), 0, 2).name
    'step_3.0-of-2.jsonl'
    """
    return path if count == 1 else path.with_name(f"{path.stem}.{index}-of-{count}{path.suffix}")


def read(path: str | os.PathLike[str]) -> Iterator[Trajectory]:
    """The trajectories of a record, with their routes where it has them."""
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(Path(path).open(encoding="utf-8"))
        beside = _routes_path(path)
        routes = stack.enter_context(np.load(beside)) if beside.exists() else {}
        for line in file:
            trajectory = from_json(json.loads(line))
            known = routes.get(trajectory.id)
            yield dataclasses.replace(trajectory, routes=known)
