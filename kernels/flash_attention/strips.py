"""The loop over keys that forward and backward share: a block of queries meets the strips of keys it sees, in order.

One pass of the loop takes a *stretch* of strips where every query sees all their keys, and one strip, masked, at the
edges. What is loaded at once is a *segment* of whole strips. Within a pass the unit is a *piece*: a chunk of queries
and a tile of keys, small enough that its scores live in few registers. The products that make the scores of a piece are
issued some pieces before its softmax, also from pass to pass, so that the matrix units never wait; the body is
unrolled, because the compiler overlaps only what is in one basic block.
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
    """Sizes in tokens: queries of a block (whole chunks) and of a chunk; keys of a tile, of a strip (whole tiles), of a
    stretch and of a segment (whole strips). Of `queries` and `strip` one is a multiple of the other.

    ahead: pieces whose scores are made before they are needed, at most as many as a strip has.
    """

    queries: int
    chunk: int
    tile: int
    strip: int
    stretch: int
    segment: int
    ahead: int

    def __post_init__(self):
        if self.queries % self.chunk or self.strip % self.tile:
            raise ValueError(f"{self}: queries are whole chunks and a strip whole tiles")
        if self.stretch % self.strip or self.segment % self.strip:
            raise ValueError(f"{self}: a stretch and a segment are whole strips")
        if self.reach & (self.reach - 1):
            raise ValueError(f"{self}: a stretch is a power of two of strips")
        if self.queries % self.strip and self.strip % self.queries:
            raise ValueError(f"{self}: of queries and strip one must be a multiple of the other")
        if not 0 < self.ahead <= self.pieces(1):
            raise ValueError(f"{self}: ahead is between 1 and the pieces of a strip, {self.pieces(1)}")

    @property
    def chunks(self) -> int:
        return self.queries // self.chunk

    @property
    def reach(self) -> int:
        """Strips of a stretch."""
        return self.stretch // self.strip

    def pieces(self, strips: int) -> int:
        return strips * self.strip // self.tile * self.chunks

    def piece(self, number: int) -> tuple[slice, slice]:
        """(its keys within the strips of a pass, its queries within the block). Static: the compiler sees that none
        meet."""
        tile, chunk = divmod(number, self.chunks)
        return slice(tile * self.tile, (tile + 1) * self.tile), self.queries_of(chunk)

    def queries_of(self, chunk: int) -> slice:
        return slice(chunk * self.chunk, (chunk + 1) * self.chunk)

    @property
    def strips(self) -> int:
        return self.segment // self.strip

    def keys_of(self, strip: Any, strips: int = 1) -> Any:
        """Where the keys of so many strips lie in their segment."""
        return pl.ds(pl.multiple_of(strip * self.strip, self.strip), strips * self.strip)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the kernel is: the block of queries, and the first strip of the segment that is loaded."""

    kind: str
    blocks: Blocks
    block: Any
    first: Any
    table: Any = None  # reads a column of this block's row of the strip table; with spans


def segment_of(kind: str, blocks: Blocks, block: Any, step: Any, column: Any) -> Any:
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


def idle(kind: str, blocks: Blocks, block: Any, step: Any, column: Any) -> Any:
    """Whether step `step` only repeats a segment."""
    if kind == "full":
        return False
    if kind == "causal":
        return step * blocks.segment > (block + 1) * blocks.queries - 1
    trunk, trunk_end, own, own_end = _segments(blocks, column)
    return step >= trunk_end - trunk + own_end - own


def _segments(blocks: Blocks, column: Any) -> tuple[Any, Any, Any, Any]:
    """The table's ranges in segments; they do not overlap either."""
    strips = blocks.strips
    trunk, trunk_end = column(m.TRUNK) // strips, -(-column(m.TRUNK_END) // strips)
    trunk_end = jnp.maximum(trunk, jnp.where(column(m.TRUNK) < column(m.TRUNK_END), trunk_end, trunk))
    own, own_end = column(m.OWN) // strips, -(-column(m.OWN_END) // strips)
    own = jnp.where(trunk < trunk_end, jnp.maximum(own, trunk_end), own)
    own_end = jnp.maximum(own, jnp.where(column(m.OWN) < column(m.OWN_END), own_end, own))
    return trunk, trunk_end, own, own_end


def for_strips(
    place: Place, run: Callable[[Any, int, Any, bool], None], first: Callable[[Any], None]
) -> None:
    """Calls first(strip) and then run(strip, strips, next strip, masked) until all visible strips of the segment had
    their turn: `strips` of them, from `strip` on, in each call, several only where all queries see all of them.

    Strips are numbered within the segment. `next strip` is the one that `run` comes with next (at the end, any).
    """
    b, count, reach = place.blocks, place.blocks.strips, place.blocks.reach
    if place.kind == "full":
        first(0)
        passes, rest = divmod(count, reach)
        assert not rest, b
        after = lambda j: jnp.minimum((j + 1) * reach, count - 1)  # noqa: E731
        jax.lax.fori_loop(0, passes, lambda j, _: run(j * reach, reach, after(j), False), None)
        return
    if place.kind == "causal":
        # Shifts and sums of the grid's indices, no division, and no clipping where a row is one segment: the compiler's
        # cycle simulator follows that.
        if b.queries % b.strip == 0:
            whole = place.block * (b.queries // b.strip)
            end = whole + b.queries // b.strip
        else:
            whole = jax.lax.div(place.block, b.strip // b.queries)
            end = whole + 1
        if place.first is not None:
            whole, end = (jnp.clip(x - place.first, 0, count) for x in (whole, end))
        first(0)
        after = lambda j: jnp.minimum(j, count - 1)  # noqa: E731
        passes = jax.lax.shift_right_logical(whole, reach.bit_length() - 1)
        jax.lax.fori_loop(0, passes, lambda j, _: run(j * reach, reach, after((j + 1) * reach), False), None)
        jax.lax.fori_loop(passes * reach, end, lambda j, _: run(j, 1, after(j + 1), True), None)
        return
    low, high = place.first, place.first + count
    trunk, trunk_end, own, own_end = (
        jnp.clip(place.table(i), low, high) for i in (m.TRUNK, m.TRUNK_END, m.OWN, m.OWN_END)
    )
    of_trunk = trunk_end - trunk
    total = of_trunk + own_end - own

    def strip(j) -> Any:
        return jnp.where(j < of_trunk, trunk + j, own + j - of_trunk)

    def whole_from(now, start, end) -> Any:
        """How many strips from this one on every query sees, of a range."""
        return jnp.where(now >= place.table(start), place.table(end) - now, 0)

    def step(j) -> Any:
        now = strip(j)
        whole = jnp.maximum(
            whole_from(now, m.TRUNK_ALL, m.TRUNK_ALL_END), whole_from(now, m.OWN_ALL, m.OWN_ALL_END)
        )
        left = jnp.where(j < of_trunk, trunk_end, own_end) - now
        far = jnp.minimum(whole, left) >= reach
        following = jnp.where(far, j + reach, j + 1)
        after = strip(jnp.minimum(following, total - 1)) - low
        pl.when(far)(lambda: run(now - low, reach, after, False))
        pl.when(~far)(lambda: run(now - low, 1, after, True))
        return following

    @pl.when(total > 0)
    def _() -> None:
        first(strip(0) - low)
        jax.lax.while_loop(lambda j: j < total, step, 0)


def visible(place: Place, start: Any, queries: slice, rows: Any) -> Any:
    """Bool [tile, chunk]: do these queries of the block (lanes) see the keys of the tile that begins at `start`?

    rows: a ref of the block's Mask.rows [1, 4, queries]; None where the mask is causal.
    """
    keys = jax.lax.broadcasted_iota(jnp.int32, (place.blocks.tile, 1), 0) + start
    if place.kind == "causal":
        index = jax.lax.broadcasted_iota(jnp.int32, (1, place.blocks.chunk), 1) + queries.start
        return keys <= index + place.block * place.blocks.queries
    trunk_lo, trunk_hi, own_lo, index = (rows[0, i : i + 1, queries] for i in range(4))
    return ((trunk_lo <= keys) & (keys < trunk_hi)) | ((own_lo <= keys) & (keys <= index))
