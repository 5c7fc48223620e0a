"""Which keys a query sees, as the kernels are told: per query, and per block of queries in strips of keys.

A mask is causal or full without any table, since visibility then follows from the grid's own indices, or it is given
by spans: four numbers per query, of which a few per block are made, so that strips without a visible key are neither
loaded nor computed, and where a whole stretch of strips is seen by every query, it is computed without masking.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

TRUNK_LO, TRUNK_HI, OWN_LO, INDEX = range(4)  # rows of Mask.rows
# Columns of `strip_table`: strips with a visible key, and those that every query of the block sees whole.
TRUNK, TRUNK_END, OWN, OWN_END, TRUNK_ALL, TRUNK_ALL_END, OWN_ALL, OWN_ALL_END = range(8)
FROM_THE_START = (TRUNK, TRUNK_ALL)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mask:
    """kind: "causal" (query t sees keys 0 … t), "full" (all keys), or "spans".

    rows, with spans: int32 [B, 4, T], of each query trunk_lo, trunk_hi, own_lo and its own place in the row; it sees
    the keys at trunk_lo … trunk_hi − 1 and at own_lo … its own place. key_start: int32 [], the place of the first key.
    aligned: query t's place is key t's, so that no query sees a later key; kernels without strips stop there.
    """

    kind: str = dataclasses.field(metadata={"static": True})
    rows: Any = None
    key_start: Any = None
    aligned: bool = dataclasses.field(default=False, metadata={"static": True})

    @staticmethod
    def of_spans(spans: tuple[Any, Any, Any], index: Any, key_start: Any = 0, aligned: bool = False) -> Mask:
        """Of three int32 [B, T] and the queries' places, int32 [T] or [B, T]."""
        index = jnp.broadcast_to(jnp.asarray(index, jnp.int32), spans[0].shape)
        return Mask("spans", jnp.stack([*spans, index], axis=1), jnp.asarray(key_start, jnp.int32), aligned)

    def padded(self, queries: int) -> Mask:
        """With this many queries more, which see nothing."""
        if self.kind != "spans" or not queries:
            return self
        blind = jnp.asarray([0, 0, 1, 0], jnp.int32)[None, :, None]
        more = jnp.broadcast_to(blind, (*self.rows.shape[:2], queries))
        return dataclasses.replace(self, rows=jnp.concatenate([self.rows, more], axis=2))

    def as_spans(self, batch: int, queries: int, keys: int) -> Mask:
        """The same mask with a table, which several segments of keys, or padding, need."""
        if self.kind == "spans":
            return self
        zeros = jnp.zeros((batch, queries), jnp.int32)
        trunk = zeros + (keys if self.kind == "full" else 0)
        own = zeros + (queries if self.kind == "full" else 0)  # beyond every place
        return Mask.of_spans((zeros, trunk, own), jnp.arange(queries, dtype=jnp.int32))

    def of_padded(self, batch: int, queries: int, keys: int, block: int, segment: int) -> Mask:
        """The mask of arrays padded to whole blocks of queries and segments of keys: padding sees nothing and is not
        seen."""
        if self.kind == "causal":
            assert queries == keys, (queries, keys)
            if queries + -queries % block <= keys + -keys % segment:
                # Padding comes after all that is there, and the last block of queries ends among the keys.
                return self
        if self.kind == "full" and keys % segment == 0:
            return self
        mask = self.as_spans(batch, queries, keys)
        end = mask.key_start + keys
        rows = mask.rows.at[:, TRUNK_HI].min(end).at[:, INDEX].min(end - 1)
        return dataclasses.replace(mask, rows=rows).padded(-queries % block)


def strip_table(mask: Mask, keys: int, block: int, strip: int) -> jax.Array:
    """int32 [B · blocks · 8]: for every block of `block` queries its ranges of strips among `keys` keys (see above).

    TRUNK … and OWN … do not overlap: together they hold every strip that has a visible key, once.
    """
    rows = mask.rows.reshape(*mask.rows.shape[:2], -1, block) - mask.key_start
    trunk_lo, trunk_hi, own_lo, index = (rows[:, i] for i in range(4))
    own_hi = index + 1
    count, far = -(-keys // strip), jnp.int32(2**30)

    def strips(lo, hi) -> tuple[Any, ...]:
        some = lo < hi
        first = jnp.where(some, lo, far).min(-1) // strip
        end = -(jnp.where(some, -hi, far).min(-1) // strip)
        first, end = jnp.clip(first, 0, count), jnp.clip(end, 0, count)
        return first, jnp.maximum(first, end), -(-lo.max(-1) // strip), hi.min(-1) // strip

    trunk, trunk_end, trunk_all, trunk_all_end = strips(trunk_lo, trunk_hi)
    own, own_end, own_all, own_all_end = strips(own_lo, own_hi)
    # Two ranges that do not meet: where they overlap, the first begins with the earlier and the second goes on.
    some = trunk < trunk_end
    trunk = jnp.where(some, jnp.minimum(trunk, own), trunk)
    own = jnp.where(some, jnp.maximum(own, trunk_end), own)
    own_end = jnp.maximum(own, own_end)
    columns = (trunk, trunk_end, own, own_end, trunk_all, trunk_all_end, own_all, own_all_end)
    return jnp.stack(columns, axis=-1).astype(jnp.int32).reshape(-1)


def stored(table: jax.Array, count: int) -> jax.Array:
    """A table of `count` strips as the TPU kernels get it: most columns count from the end, so that zeros say that all
    queries see all strips. The compiler's cycle simulator reads zeros, and then simulates just that."""
    from_the_start = jnp.isin(jnp.arange(table.size) % 8, jnp.asarray(FROM_THE_START))
    return jnp.where(from_the_start, table, count - table)


def reader(table: Any, block: Any, count: int) -> Callable[[int], Any]:
    """Reads a column of a block's row of a table that is `stored`."""
    at = lambda column: table[block * 8 + column]  # noqa: E731
    return lambda column: at(column) if column in FROM_THE_START else count - at(column)
