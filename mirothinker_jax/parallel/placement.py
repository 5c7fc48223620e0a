"""From this process's rows to global arrays: which rows a process loads, and how they become a batch."""

from __future__ import annotations

import json
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from mirothinker_jax.config import ConfigError
from mirothinker_jax.parallel.context import zigzag
from mirothinker_jax.parallel.mesh import BATCH_AXES
from mirothinker_jax.parallel.processes import gather_texts
from mirothinker_jax.parallel.sharding import batch_sharding
from mirothinker_jax.types import Batch


def data_shard(mesh: Mesh) -> tuple[int, int]:
    """(index, count): which of how many equal blocks of a batch's rows this process holds.

    Processes that split only the context or heads of the same rows share a block and load the same data.

    Raises ConfigError where this process's devices hold rows that are not one contiguous block.
    """
    parts = int(np.prod([mesh.shape[a] for a in BATCH_AXES]))
    where = batch_sharding(mesh).addressable_devices_indices_map((parts, mesh.shape["context"]))
    rows = [index[0] for index in where.values() if index is not None]
    held = sorted({i for block in rows for i in range(*block.indices(parts))})
    if held != list(range(held[0], held[-1] + 1)) or held[0] % len(held) or parts % len(held):
        raise ConfigError(
            f"config.mesh: this process holds rows {held} of {parts}, not one block of them; "
            "give the axes that processes share (context, tensor) sizes within a process"
        )
    return held[0] // len(held), parts // len(held)


def to_global(mesh: Mesh, local: Batch, microbatch_size: int, least: int) -> tuple[Batch, np.int32]:
    """The step's batch [M, microbatch_size, T] on the mesh, and how many micro-batches are in use (int32). Tokens of a
    row are in the order of parallel/context.py.

    Args:
      local: this process's rows, numpy [R, T], R a multiple of its share of microbatch_size and the same on every
        process (asking the others here would make every step wait for the one before).
      microbatch_size: rows of a micro-batch over all processes.
      least: the smallest M; a larger need is rounded up to a power of two, so that few shapes compile.
    """
    index, count = data_shard(mesh)
    block = microbatch_size // count
    used = local.shape[0] // block
    assert used * block == local.shape[0], (local.shape, block)
    room = least if used <= least else 1 << (used - 1).bit_length()
    sharding = batch_sharding(mesh, leading=1)
    devices = mesh.shape["context"]

    def place(rows: np.ndarray) -> jax.Array:
        if devices > 1:
            rows = rows[:, zigzag(local.shape[1], devices)]
        filled = rows.reshape(room, block, *rows.shape[1:])

        def part(where: tuple[slice, ...] | None) -> np.ndarray:
            assert where is not None
            first, last, _ = where[1].indices(microbatch_size)
            return filled[where[0], first - index * block : last - index * block, *where[2:]]

        return jax.make_array_from_callback((room, microbatch_size, *rows.shape[1:]), sharding, part)

    return jax.tree.map(place, local.padded(room * block - local.shape[0])), np.int32(used)


def gather_state(state: dict[str, Any]) -> dict[str, Any]:
    """The union of the processes' {"shards": {…}} states (and whatever else is equal on all of them)."""
    merged = dict(state)
    for other in map(json.loads, gather_texts(json.dumps(state))):
        if "shards" in other:
            merged["shards"] = merged.get("shards", {}) | other["shards"]
    return merged


def to_host(tree: Any) -> Any:
    """Whole arrays on this host, from a tree sharded over all processes (every process must call it)."""
    if jax.process_count() == 1:
        return tree
    return multihost_utils.process_allgather(tree, tiled=True)
