"""Paged attention on TPUs: jax's ragged paged attention (arXiv 2604.15464) behind our interface.

A page is [P, 2K, E], keys and values of a head beside each other, as that kernel has them. Its queries may be ragged;
ours are rows of one length, of which the last may be padding: these see keys that may be anything, and are not read.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.ragged_paged_attention import ragged_paged_attention

from . import xla

KEYS, QUERIES = 1024, 32  # of a block

copy = xla.copy


def empty(pages: int, size: int, kv_heads: int, width: int, dtype: Any) -> tuple[jax.Array]:
    """Keys and values of `pages` pages of `size` tokens, zeros [pages, size, 2K, E]."""
    return (jnp.zeros((pages, size, 2 * kv_heads, width), dtype),)


def write(pool, k: jax.Array, v: jax.Array, table: jax.Array, places: jax.Array) -> tuple[jax.Array]:
    """See xla.py."""
    (both,) = pool
    size = both.shape[1]
    page = jnp.take_along_axis(table, jnp.maximum(places, 0) // size, axis=1)
    page = jnp.where(places >= 0, page, both.shape[0])
    pairs = jnp.stack([k, v], axis=3).reshape(*k.shape[:2], both.shape[2], k.shape[3])
    return (both.at[page, jnp.maximum(places, 0) % size].set(pairs.astype(both.dtype), mode="drop"),)


def attend(q: jax.Array, pool, table: jax.Array, places: jax.Array) -> jax.Array:
    """See xla.py. Places of a row follow one another from its first, up to its padding; M · P ≥ the last one's + C."""
    rows, count, heads, width = q.shape
    lengths = jnp.maximum(places[:, 0], 0) + count
    starts = jnp.arange(rows + 1, dtype=jnp.int32) * count
    out = ragged_paged_attention(
        q.reshape(rows * count, heads, width),
        pool[0],
        lengths,
        table,
        starts,
        jnp.full(1, rows, jnp.int32),
        sm_scale=width**-0.5,
        # Given, because the kernel's own table asks for the device that compiles, not for the one compiled for.
        num_kv_pages_per_block=min(max(1, KEYS // pool[0].shape[1]), table.shape[1]),
        num_queries_per_block=min(QUERIES, rows * count),
    )
    return out.reshape(q.shape)
