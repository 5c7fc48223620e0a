"""Which blocks the GPU kernels visit: of a block of queries the blocks of keys that it sees, and the other way round.

Blocks of which every query sees every key are visited without a mask, the others with one. Each of the two is one loop
over a few ranges, so that the compiler can have the loads of later blocks under way.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from . import mask as m

Ranges = Sequence[tuple[Any, Any]]


@dataclasses.dataclass(frozen=True)
class Tile:
    """What one program of a kernel works on at a time: queries and keys in tokens, powers of two from 16 on.

    warps: of 32 threads each, that share it. stages: visits whose loads are under way at once.
    """

    queries: int
    keys: int
    warps: int
    stages: int


def table_of_queries(mask: m.Mask, keys: int, tile: Tile) -> jax.Array:
    """int32 [B, blocks of queries, 8]: two ranges of blocks of keys that hold all that a block of queries sees, and in
    each of them one that all of its queries see whole: start, whole start, whole end, end."""
    table = m.strip_table(mask, keys, tile.queries, tile.keys).reshape(mask.rows.shape[0], -1, 8)

    def stops(*columns) -> tuple[Any, ...]:
        start, end, whole, whole_end = (table[..., column] for column in columns)
        whole = jnp.clip(whole, start, end)
        return start, whole, jnp.clip(whole_end, whole, end), end

    trunk = stops(m.TRUNK, m.TRUNK_END, m.TRUNK_ALL, m.TRUNK_ALL_END)
    own = stops(m.OWN, m.OWN_END, m.OWN_ALL, m.OWN_ALL_END)
    return jnp.stack([*trunk, *own], axis=-1)


def table_of_keys(mask: m.Mask, keys: int, tile: Tile) -> jax.Array:
    """int32 [B, blocks of keys, 6]: one range of blocks of queries that holds all that see a block of keys, and in it
    the first two of which all queries see it whole: start, whole start, whole end, whole start, whole end, end.

    The queries that see a key are neighbours in all rows of packing; blocks between some that are not are masked.
    """
    table = table_of_queries(mask, keys, tile)
    place = jnp.arange(keys // tile.keys, dtype=jnp.int32)[None, None]
    block = jnp.arange(table.shape[1], dtype=jnp.int32)[None, :, None]

    # Bool [B, blocks of queries, blocks of keys], of which XLA makes no array.
    def holds(start, end) -> Any:
        return (table[..., start, None] <= place) & (place < table[..., end, None])

    seen, whole = holds(0, 3) | holds(4, 7), holds(1, 2) | holds(5, 6)
    end = jnp.where(seen, block + 1, 0).max(1)

    def first(condition, start) -> Any:
        there = condition & (block >= start[:, None])
        return jnp.minimum(jnp.where(there, block, block.size).min(1), end)

    stops = [first(seen, jnp.zeros_like(end))]
    start = stops[0]
    for condition in (whole, ~whole, whole, ~whole):
        start = first(condition, start)
        stops.append(start)
    return jnp.stack([*stops, end], axis=-1)


def inputs(mask: m.Mask, table: jax.Array, block: Callable[[Any], Any]) -> tuple[list, list]:
    """A row's spans [4, T] and the table's row of a program, as a kernel's inputs, and their specs.

    block: which row of the table the i-th program has.
    """
    specs = [
        pl.BlockSpec((None, *mask.rows.shape[1:]), lambda i, h, b: (b, 0, 0)),
        pl.BlockSpec((None, None, table.shape[2]), lambda i, h, b: (b, block(i), 0)),
    ]
    return [mask.rows - mask.key_start, table], specs


def split(kind: str, refs: Sequence[Any]) -> tuple[Any, Any, Sequence[Any]]:
    """(spans, the table's row, what else there is) of a kernel's refs from those of `inputs` on; None where the mask is
    not by spans."""
    return (refs[0], refs[1], refs[2:]) if kind == "spans" else (None, None, refs)


def ranges_of_keys(kind: str, tile: Tile, block: Any, count: int, table: Any) -> tuple[Ranges, Ranges]:
    """(without a mask, with one): the ranges of `count` blocks of keys that a block of queries visits.

    table: a ref of the block's row of `table_of_queries`; None where the mask is not by spans.
    """
    if kind == "full":
        return [(0, count)], []
    if kind == "causal":
        whole = jax.lax.div(block * tile.queries, tile.keys)
        return [(0, whole)], [(whole, jax.lax.div((block + 1) * tile.queries + tile.keys - 1, tile.keys))]
    stops = [table[i] for i in range(8)]
    return [(stops[i], stops[i + 1]) for i in (1, 5)], [(stops[i], stops[i + 1]) for i in (0, 2, 4, 6)]


def ranges_of_queries(kind: str, tile: Tile, block: Any, count: int, table: Any) -> tuple[Ranges, Ranges]:
    """(without a mask, with one): the ranges of `count` blocks of queries that visit a block of keys.

    table: a ref of the block's row of `table_of_keys`; None where the mask is not by spans.
    """
    if kind == "full":
        return [(0, count)], []
    if kind == "causal":
        start = jax.lax.div(block * tile.keys, tile.queries)
        whole = jax.lax.div((block + 1) * tile.keys + tile.queries - 2, tile.queries)
        return [(whole, count)], [(start, whole)]
    stops = [table[i] for i in range(6)]
    return [(stops[i], stops[i + 1]) for i in (1, 3)], [(stops[i], stops[i + 1]) for i in (0, 2, 4)]


def over(ranges: Ranges, visit: Callable[[Any, Any], Any], state: Any) -> Any:
    """`visit(block, state)` → state, for every block of the ranges, in order; the last state."""

    def step(number, state) -> Any:
        block, before = number, 0
        for start, end in ranges:
            block = jax.lax.select(number >= before, start + number - before, block)
            before = before + end - start
        return visit(block, state)

    return jax.lax.fori_loop(0, sum(end - start for start, end in ranges), step, state) if ranges else state


def spans_of(kind: str, tile: Tile, block: Any, rows: Any) -> tuple[jax.Array, ...]:
    """What `visible` asks of a block of queries, int32 [queries] each. rows: a ref of a row of Mask.rows, [4, T]."""
    start = block * tile.queries
    if kind == "causal":
        return (start + jnp.arange(tile.queries, dtype=jnp.int32),)
    return tuple(rows[i, pl.ds(start, tile.queries)] for i in range(4))


def places(block: Any, tile: Tile) -> jax.Array:
    """int32 [keys]: where the keys of a block are."""
    return block * tile.keys + jnp.arange(tile.keys, dtype=jnp.int32)


def visible(spans: Sequence[jax.Array], keys: jax.Array) -> jax.Array:
    """Bool: may a query see a key? Dims of the two are broadcast against each other."""
    if len(spans) == 1:
        return keys <= spans[0]
    trunk_lo, trunk_hi, own_lo, index = spans
    return ((trunk_lo <= keys) & (keys < trunk_hi)) | ((own_lo <= keys) & (keys <= index))
