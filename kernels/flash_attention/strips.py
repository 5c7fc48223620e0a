"""The loop over keys that forward and backward share: a block of queries meets the strips of keys it sees, in order.

A strip is as many keys as one pass of the loop takes, in tiles. What is loaded at once is a *segment* of whole strips.
The matrix products of a tile are issued before the softmax of the one before it, also from strip to strip, so that
the matrix units never wait; the body is unrolled, because the compiler overlaps only what is in one basic block.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from . import mask as m


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Sizes in tokens: queries of a block, keys of a tile, of a strip (whole tiles), of a segment (whole strips). Of
    `queries` and `strip` one is a multiple of the other."""

    queries: int
    tile: int
    strip: int
    segment: int

    def __post_init__(self):
        if self.strip % self.tile or self.segment % self.strip:
            raise ValueError(f"{self}: a strip is whole tiles and a segment whole strips")
        if self.queries % self.strip and self.strip % self.queries:
            raise ValueError(f"{self}: of queries and strip one must be a multiple of the other")

    @property
    def tiles(self) -> int:
        return self.strip // self.tile

    @property
    def strips(self) -> int:
        return self.segment // self.strip

    def keys_of(self, strip: Any) -> Any:
        """Where a strip's keys lie in its segment."""
        return pl.ds(pl.multiple_of(strip * self.strip, self.strip), self.strip)

    def tile_of(self, number: int) -> slice:
        """Where a tile's keys lie in its strip. Static within the strip: the compiler sees that none meet."""
        return slice(number * self.tile, (number + 1) * self.tile)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the kernel is: the block of queries, and the first strip of the segment that is loaded."""

    kind: str
    blocks: Blocks
    block: Any
    first: Any
    table: Any = None  # reads a column of this block's row of the strip table; with spans


def segment_of(kind: str, blocks: Blocks, block: Any, step: Any, column: Callable[[int], Any]) -> Any:
    """The segment that step `step` of a block works on: the visible ones in order, then the last of them again, which
    is there already and has nothing left to do."""
    if kind == "full":
        return step
    if kind == "causal":
        return jnp.minimum(step, ((block + 1) * blocks.queries - 1) // blocks.segment)
    trunk, trunk_end, own, own_end = _segments(blocks, column)
    shift = jnp.where(step < trunk_end - trunk, trunk, own - (trunk_end - trunk))
    last = jnp.where(own < own_end, own_end, trunk_end) - 1
    return jnp.maximum(jnp.minimum(step + shift, last), 0)


def idle(kind: str, blocks: Blocks, block: Any, step: Any, column: Callable[[int], Any]) -> Any:
    """Whether step `step` only repeats a segment."""
    if kind == "full":
        return False
    if kind == "causal":
        return step * blocks.segment > (block + 1) * blocks.queries - 1
    trunk, trunk_end, own, own_end = _segments(blocks, column)
    return step >= trunk_end - trunk + own_end - own


def _segments(blocks: Blocks, column: Callable[[int], Any]) -> tuple[Any, Any, Any, Any]:
    """The table's ranges in segments; they do not overlap either."""
    strips = blocks.strips
    trunk, trunk_end = column(m.TRUNK) // strips, -(-column(m.TRUNK_END) // strips)
    trunk_end = jnp.maximum(trunk, jnp.where(column(m.TRUNK) < column(m.TRUNK_END), trunk_end, trunk))
    own, own_end = column(m.OWN) // strips, -(-column(m.OWN_END) // strips)
    own = jnp.where(trunk < trunk_end, jnp.maximum(own, trunk_end), own)
    own_end = jnp.maximum(own, jnp.where(column(m.OWN) < column(m.OWN_END), own_end, own))
    return trunk, trunk_end, own, own_end


def for_strips(place: Place, run: Callable[[Any, Any, bool], None], first: Callable[[Any], None]) -> None:
    """Calls first(strip) and then run(strip, next strip, masked) for the visible strips of the segment.

    Strips are numbered within the segment. `next strip` is the one that `run` comes with next (at the end, any).
    """
    b, count = place.blocks, place.blocks.strips
    if place.kind == "full":
        first(0)
        jax.lax.fori_loop(0, count, lambda j, _: run(j, jnp.minimum(j + 1, count - 1), False), None)
        return
    if place.kind == "causal":
        # Plain arithmetic of the grid's indices, and no clipping where a row is one segment: the compiler's cycle
        # simulator follows that.
        if b.queries % b.strip == 0:
            whole = place.block * (b.queries // b.strip)
            end = whole + b.queries // b.strip
        else:
            whole = jax.lax.div(place.block, b.strip // b.queries)
            end = whole + 1
        if place.first is not None:
            whole, end = (jnp.clip(x - place.first, 0, count) for x in (whole, end))
        first(0)
        for low, high, masked in ((0, whole, False), (whole, end, True)):
            jax.lax.fori_loop(
                low, high, lambda j, _, masked=masked: run(j, jnp.minimum(j + 1, count - 1), masked), None
            )
        return
    low, high = place.first, place.first + count
    trunk, trunk_end, own, own_end = (
        jnp.clip(place.table(i), low, high) for i in (m.TRUNK, m.TRUNK_END, m.OWN, m.OWN_END)
    )
    total = trunk_end - trunk + own_end - own

    def strip(j):
        return jnp.where(j < trunk_end - trunk, trunk + j, own + j - (trunk_end - trunk))

    def step(j, _):
        now, after = strip(j), strip(jnp.minimum(j + 1, total - 1)) - low
        whole = (now >= place.table(m.TRUNK_ALL)) & (now < place.table(m.TRUNK_ALL_END))
        whole |= (now >= place.table(m.OWN_ALL)) & (now < place.table(m.OWN_ALL_END))
        for masked in (False, True):
            pl.when(whole != masked)(lambda masked=masked: run(now - low, after, masked))

    @pl.when(total > 0)
    def _():
        first(strip(0) - low)
        jax.lax.fori_loop(0, total, step, None)


def visible(place: Place, start: Any, rows: Any) -> Any:
    """Bool [tile, queries]: do the queries (lanes) see the keys of the tile that begins at `start`?

    rows: a ref of the block's Mask.rows [1, 4, queries]; None where the mask is causal.
    """
    keys = jax.lax.broadcasted_iota(jnp.int32, (place.blocks.tile, 1), 0) + start
    if place.kind == "causal":
        index = jax.lax.broadcasted_iota(jnp.int32, (1, place.blocks.queries), 1)
        return keys <= index + place.block * place.blocks.queries
    trunk_lo, trunk_hi, own_lo, index = (rows[0, i : i + 1] for i in range(4))
    return ((trunk_lo <= keys) & (keys < trunk_hi)) | ((own_lo <= keys) & (keys <= index))
