"""Paged attention in plain XLA: a loop over the pages that are alive, with online softmax (arXiv 1805.02867).

A turn of the loop loads one page of each of some rows, so no context is ever gathered whole. It ends with the longest
of them; rows that ended before compute pages of zero weight, which change no bit of theirs.

A page of values is [K, P, E], one of keys [K, E, P]: both products are batches of plain matrix products that read a
page in its order. With keys in the order of values, a CPU takes half as long again for theirs.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

NEVER = -1e30


def empty(pages: int, size: int, kv_heads: int, width: int, dtype: Any) -> tuple[jax.Array, jax.Array]:
    """Keys and values of `pages` pages of `size` tokens, zeros [pages, K, E, size] and [pages, K, size, E]."""
    keys, values = (pages, kv_heads, width, size), (pages, kv_heads, size, width)
    return jnp.zeros(keys, dtype), jnp.zeros(values, dtype)


def write(pool, k: jax.Array, v: jax.Array, table: jax.Array, places: jax.Array) -> tuple[Any, ...]:
    """The pool with the tokens k, v [B, C, K, E] at `places`, int32 [B, C], of rows whose pages are table, int32
    [B, M]. A token at −1 is not written."""
    keys, values = pool
    size = values.shape[2]
    page = jnp.take_along_axis(table, jnp.maximum(places, 0) // size, axis=1)
    page = jnp.where(places >= 0, page, keys.shape[0])
    every, at = slice(None), jnp.maximum(places, 0) % size
    return (
        keys.at[page, every, every, at].set(k.astype(keys.dtype), mode="drop"),
        values.at[page, every, at].set(v.astype(values.dtype), mode="drop"),
    )


def copy(pool, source: jax.Array, target: jax.Array) -> tuple[Any, ...]:
    """The pool with page source[i] copied to target[i], int32 [n], one after the other; a target of −1 is none."""

    def one(i, pool) -> tuple[Any, ...]:
        to = jnp.where(target[i] >= 0, target[i], source[i])
        return tuple(
            jax.lax.dynamic_update_index_in_dim(
                x, jax.lax.dynamic_index_in_dim(x, source[i], 0, False), to, 0
            )
            for x in pool
        )

    return jax.lax.fori_loop(0, source.shape[0], one, tuple(pool))


def attend(q: jax.Array, pool, table: jax.Array, places: jax.Array, at_once: int = 0) -> jax.Array:
    """[B, C, H, E] of queries at `places`, int32 [B, C], each over the keys of its row up to its own. −1: zeros.

    `at_once`: bytes of pages that a turn of the loop may load; 0: a page of every row. Rows are then taken in blocks,
    the longest first, so that no block waits for a row much longer than the others, and what it loads stays in a CPU's
    caches. A wide device has better use for all rows at a time.
    """
    return attend_part(q, pool, table, places, at_once)[0].astype(q.dtype)


def attend_part(
    q: jax.Array, pool, table: jax.Array, places: jax.Array, at_once: int = 0
) -> tuple[jax.Array, jax.Array]:
    """What `attend` gives, in float32, and the log-sum-exp of each query's scores, float32 [B, C, H]: these keys may be
    a part of the row's. A query that sees none has one of −5e29."""
    rows = len(q)
    block = max(1, at_once // sum(part.nbytes // len(part) for part in pool)) if at_once else rows
    if block >= rows:
        return _attend(q, pool, table, places)
    order = jnp.argsort(-places.max(1))
    sorted_rows = tuple(x[order] for x in (q, table, places))

    def some(i, found) -> tuple[jax.Array, ...]:
        # The last block begins earlier where they do not divide, and has some rows again.
        first = jnp.minimum(i * block, rows - block)
        q, table, places = (jax.lax.dynamic_slice_in_dim(x, first, block) for x in sorted_rows)
        new = _attend(q, pool, table, places)
        return tuple(
            jax.lax.dynamic_update_slice_in_dim(x, y, first, 0) for x, y in zip(found, new, strict=True)
        )

    empty = jnp.zeros(q.shape, jnp.float32), jnp.zeros(q.shape[:3], jnp.float32)
    found = jax.lax.fori_loop(0, -(-rows // block), some, empty)
    out, norm = (jnp.zeros_like(x).at[order].set(x, unique_indices=True) for x in found)
    return out, norm


def _attend(q: jax.Array, pool, table: jax.Array, places: jax.Array) -> tuple[jax.Array, jax.Array]:
    keys, values = pool
    rows, count, heads, width = q.shape
    kv_heads, size = values.shape[1:3]
    groups = heads // kv_heads
    # [B, K, G·C, E]: the queries of a key's head beside each other, one product for all of them.
    grouped = q.reshape(rows, count, kv_heads, groups, width).transpose(0, 2, 3, 1, 4)
    grouped = grouped.reshape(rows, kv_heads, groups * count, width)
    own = jnp.broadcast_to(places[:, None], (rows, groups, count)).reshape(rows, 1, groups * count, 1)

    def page(j, state) -> tuple[Any, ...]:
        top, total, out = state
        index = jax.lax.dynamic_index_in_dim(table, j, 1, False)
        k, v = keys[index], values[index]
        scores = jnp.einsum("bkqe,bkes->bkqs", grouped, k, preferred_element_type=jnp.float32) * width**-0.5
        seen = (j * size + jnp.arange(size, dtype=jnp.int32))[None, None, None] <= own
        scores = jnp.where(seen, scores, NEVER)
        above = jnp.maximum(top, scores.max(-1))
        weights, before = jnp.exp(scores - above[..., None]), jnp.exp(top - above)
        weighted = jnp.einsum(
            "bkqs,bkse->bkqe", weights.astype(v.dtype), v, preferred_element_type=jnp.float32
        )
        return above, total * before + weights.sum(-1), out * before[..., None] + weighted

    shape = grouped.shape[:3]
    zeros = jnp.zeros(shape, jnp.float32)
    # Half of NEVER: where all is masked, exp(NEVER − top) still is 0.
    state = (zeros + 0.5 * NEVER, zeros, jnp.zeros(grouped.shape, jnp.float32))
    top, total, out = jax.lax.fori_loop(0, places.max() // size + 1, page, state)
    total = jnp.where(total > 0, total, 1.0)
    # Back to a token's heads beside each other, after a last dim of 1 for what has none.
    parts = (out / total[..., None], (top + jnp.log(total))[..., None])
    parts = (x.reshape(rows, kv_heads, groups, count, -1).transpose(0, 3, 1, 2, 4) for x in parts)
    out, norm = (x.reshape(rows, count, heads, -1) for x in parts)
    return out, norm[..., 0]
