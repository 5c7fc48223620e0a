"""Where each (token, choice) goes: sorted by expert, every expert's share padded to whole tiles. Nothing is dropped.

tile 2, 3 experts, chosen [[0], [2], [0], [0]]  →  places  t0 t2 | t3 .. | t1 ..   tiles of experts 0, 0, 2

Made without a sort, which takes a TPU's compiler as long as all the rest of a layer.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

BLOCK = 256  # choices that are counted by one product


class Layout(NamedTuple):
    """Sizes are static: P places, a multiple of the tile, hold whatever the routing is.

    place: int32 [N, k], the place of each choice; P where its expert is not one of these.
    source: int32 [P], the flat choice (token · k + j) at each place; N · k where there is none.
    expert: int32 [P / tile], the expert of each tile. Those at the end that are not in use are of the experts without
      a token, so that every expert has a tile.
    padding: int32 scalar, the tiles that are not in use.
    """

    place: jax.Array
    source: jax.Array
    expert: jax.Array
    padding: jax.Array

    @property
    def tiles(self) -> jax.Array:
        """int32 scalar, the tiles in use."""
        return self.expert.shape[0] - self.padding

    @property
    def table(self) -> jax.Array:
        """int32 [P / tile + 1], for kernels: `expert`, and then `padding`. One array, in which zeros say that all tiles
        are in use: what the cycle simulator reads in it (benchmarks/kernel_cycles.py)."""
        return jnp.append(self.expert, self.padding)


def make_layout(chosen: jax.Array, experts: int, tile: int) -> Layout:
    """The layout of choices int32 [N, k] among experts 0 … experts − 1; others (−1) have no place."""
    flat = chosen.reshape(-1)
    count, arange = flat.size, functools.partial(jnp.arange, dtype=jnp.int32)
    assert count + experts * tile < 1 << 24, f"{count} choices on a device: float32 counts them no more"
    # Counted, not sorted: earlier choices of the same expert, in a block by a product and before it by a sum.
    block = min(BLOCK, count)
    blocks = jnp.append(flat, jnp.full(-count % block, -1, jnp.int32)).reshape(-1, block)
    hot = (blocks[..., None] == arange(experts)[None, None]).astype(jnp.float32)
    held = hot.sum(1)
    until = jnp.cumsum(held, 0)
    within = jnp.einsum("ij,bjx->bix", jnp.tri(block, k=-1, dtype=jnp.float32), hot)
    held, before = until[-1].astype(jnp.int32), until - held
    used = (held + tile - 1) // tile  # tiles of each expert
    ends = jnp.cumsum(used)
    begins = (ends - used) * tile
    total = (count + experts * tile) // tile
    place = ((within + (before + begins.astype(jnp.float32)[None])[:, None]) * hot).sum(-1)
    place = place.reshape(-1)[:count].astype(jnp.int32)
    place = jnp.where((flat >= 0) & (flat < experts), place, total * tile)
    source = jnp.full(total * tile, count, jnp.int32)
    unique = jnp.where(place < total * tile, place, total * tile + arange(count))
    source = source.at[unique].set(arange(count), mode="drop", unique_indices=True)
    expert = _experts_of(arange(total), used, ends)
    return Layout(place.reshape(chosen.shape), source, expert, total - ends[-1])


def _experts_of(tiles: jax.Array, used: jax.Array, ends: jax.Array) -> jax.Array:
    """The expert of each tile, where experts use so many and their last ones end there."""
    find = functools.partial(jnp.searchsorted, side="right", method="compare_all")
    empty = jnp.cumsum(used == 0)
    holds = jnp.minimum(find(ends, tiles), used.size - 1)
    lacks = find(empty, jnp.minimum(tiles - ends[-1], empty[-1] - 1))
    return jnp.where((tiles < ends[-1]) | (empty[-1] == 0), holds, lacks).astype(jnp.int32)
