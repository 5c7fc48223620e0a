"""Checkpoints of parameters alone, written and read a slice at a time, for models larger than this host's memory.

Orbax lays out the checkpoint (tree, identity, atomic rename of the step) around placeholders of one element; the
arrays themselves are then written in their place by TensorStore, Orbax's own storage, in chunks of a slice. What
comes out is an ordinary Orbax checkpoint: `load_params` restores it sharded, on any mesh.

Left out: reading less than a stored chunk. A training run's chunks span as many layers as fit CHUNK_BYTES of
checkpoint.py, of one device's part.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts

from mirothinker_jax.trainer.digests import write_digests
from mirothinker_jax.trainer.storage import storage_errors

CHUNK_BYTES = 64 << 20  # of one stored chunk at the most; a device reads whole chunks
# What is written at the same time shares a commit, so that small tensors do not cost a flush and a file each; but the
# database holds about four copies of it meanwhile.
IN_FLIGHT_BYTES = 64 << 20
COMPRESSOR = {"id": "zstd", "level": 1}  # Orbax's
STEP = 0

Leaf = tuple[str, ...]  # path of a parameter
Index = tuple[int, ...]  # of a slice of it: layer, expert
Piece = tuple[Leaf, Index, Callable[[], np.ndarray]]


def write_params(
    folder: Path,
    shapes: dict[Leaf, tuple[int, ...]],
    dtype: str,
    pieces: Iterable[Piece],
    identity: dict[str, Any],
    config: dict[str, Any],
) -> None:
    """Writes folder/STEP, holding one piece in memory at a time. Together the pieces must be all of the parameters.

    `identity` and `config` are what Checkpoints.save keeps beside the numbers.

    Not atomic by itself: write into a scratch folder and rename that. Raises OSError where writing fails.
    """
    placeholders: dict[str, Any] = {}
    for leaf, shape in shapes.items():
        owner = placeholders
        for key in leaf[:-1]:
            owner = owner.setdefault(key, {})
        owner[leaf[-1]] = np.zeros((1,) * len(shape), dtype)
    with storage_errors(folder), ocp.CheckpointManager(folder.resolve()) as manager:
        manager.save(
            STEP,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave({"params": placeholders}),
                identity=ocp.args.JsonSave(identity),
                config=ocp.args.JsonSave(config),
            ),
        )
    state = folder / str(STEP) / "state"
    stores: dict[Leaf, Any] = {}
    context = ts.Context()  # of one database: handles of several ones would not share commits
    writing: collections.deque[tuple[int, Any]] = collections.deque()
    try:
        for leaf, index, value in pieces:
            chunks = _chunks(shapes[leaf], len(index), np.dtype(dtype).itemsize)
            if leaf not in stores:
                spec = _spec(state, leaf) | {"metadata": {"chunks": chunks, "compressor": COMPRESSOR}}
                new = {"create": True, "delete_existing": True, "dtype": dtype, "shape": shapes[leaf]}
                with storage_errors(folder):
                    stores[leaf] = ts.open(spec, context=context, **new).result()
            part, rows = value(), chunks[len(index)]
            for start in range(0, len(part), rows):
                block = part[start : start + rows]
                write = stores[leaf][(*index, slice(start, start + len(block)))].write(block)
                writing.append((block.nbytes, write))
                while sum(size for size, _ in writing) > IN_FLIGHT_BYTES:
                    _, write = writing.popleft()
                    with storage_errors(folder):
                        write.result()
    finally:  # also after an error: then nothing writes into the folder any more, and it can be removed
        failed = [error for _, write in writing if (error := write.exception())]
    if failed:
        with storage_errors(folder):
            raise failed[0]
    write_digests(folder / str(STEP))


def reader(folder: Path) -> Callable[[Leaf, Index], np.ndarray]:
    """A function that reads a slice of a parameter of the step folder `folder`; it raises OSError where it cannot."""
    stores: dict[Leaf, Any] = {}

    def read(leaf: Leaf, index: Index) -> np.ndarray:
        with storage_errors(folder):
            if leaf not in stores:
                stores[leaf] = ts.open(_spec(folder / "state", leaf), open=True).result()
            return stores[leaf][index].read().result()

    return read


def _spec(state: Path, leaf: Leaf) -> dict[str, Any]:
    name = ".".join(("params", *leaf))
    kvstore = {"driver": "ocdbt", "base": f"file://{state.resolve()}/", "path": f"{name}/"}
    return {"driver": "zarr", "kvstore": kvstore}


def _chunks(shape: tuple[int, ...], stacked: int, item: int) -> list[int]:
    """One slice of the stacked dims per chunk, its first dim split where the slice is larger than CHUNK_BYTES."""
    part = list(shape[stacked:])
    rows = max(1, CHUNK_BYTES // (math.prod(part[1:]) * item))
    return [1] * stacked + [min(part[0], rows), *part[1:]]
