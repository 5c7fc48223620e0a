"""Where each (token, choice) goes: sorted by expert, every expert's share padded to whole tiles. Nothing is dropped.

tile 2, 3 experts, chosen [[0], [2], [0], [0]]  →  places  t0 t2 | t3 .. | t1 ..   tiles of experts 0, 0, 2
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Layout(NamedTuple):
    """Sizes are static: P places, a multiple of the tile, hold whatever the routing is.

    place: int32 [N, k], the place of each choice; P where its expert is not one of these.
    source: int32 [P], the flat choice (token · k + j) at each place; N · k where there is none.
    expert: int32 [P / tile], the expert of each tile.
    tiles: int32 scalar, the tiles in use: all others are padding at the end.
    sizes: int32 [X], places of each expert, multiples of the tile.
    """

    place: jax.Array
    source: jax.Array
    expert: jax.Array
    tiles: jax.Array
    sizes: jax.Array


def make_layout(chosen: jax.Array, experts: int, tile: int) -> Layout:
    """The layout of choices int32 [N, k] among experts 0 … experts − 1; others (−1) have no place."""
    flat = chosen.reshape(-1)
    count = flat.size
    known = (flat >= 0) & (flat < experts)
    key = jnp.where(known, flat, experts)
    order = jnp.argsort(key, stable=True).astype(jnp.int32)
    held = jnp.zeros(experts + 1, jnp.int32).at[key].add(1)
    sizes = (held[:experts] + tile - 1) // tile * tile
    begins = jnp.cumsum(sizes) - sizes
    firsts = jnp.cumsum(held) - held  # in sorted order
    total = (count + experts * (tile - 1)) // tile * tile
    total = max(tile, total)
    sorted_key = key[order]
    rank = jnp.arange(count, dtype=jnp.int32) - firsts[sorted_key]
    to = jnp.where(sorted_key < experts, jnp.append(begins, total)[sorted_key] + rank, total)
    place = jnp.zeros(count, jnp.int32).at[order].set(to.astype(jnp.int32))
    source = jnp.full(total, count, jnp.int32).at[to].set(order, mode="drop")
    ends = (begins + sizes) // tile
    tiles = jnp.arange(total // tile, dtype=jnp.int32)
    expert = jnp.minimum(jnp.searchsorted(ends, tiles, side="right").astype(jnp.int32), experts - 1)
    return Layout(place.reshape(chosen.shape), source, expert, (sizes.sum() // tile).astype(jnp.int32), sizes)
