"""Where kernels meet the mesh: the only importer of `mirothinker_kernels`.

Heads go over `tensor`, rows over the batch axes, queries over `context`; keys and values are gathered over
`context` before the kernel (the ring comes with its own kernel).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import mirothinker_kernels.flash_attention.blockwise as flash  # pyright: ignore[reportMissingImports]

from mirothinker_jax.parallel.sharding import constrain, spec
from mirothinker_jax.types import Spans

# (q [B, T, H, E], k [B, T, K, E], v [B, T, K, E], layer cache or None) → ([B, T, H, E], new layer cache)
Attend = Callable[..., tuple[jax.Array, jax.Array | tuple | None]]

SAVED = flash.SAVED  # names of attention's results, for rematerialisation policies
CHUNK_QUERIES = 64
CACHE_AXES = ("batch", "kv_heads", None, None)  # of one layer's keys or values: [slots, K, C, E]


def make_attend(spans: Spans) -> Attend:
    """Attention for training rows with these spans, on the mesh in force (or without one)."""
    mesh = jax.sharding.get_abstract_mesh()

    def attend(q, k, v, layer_cache):
        assert layer_cache is None, "training rows have no cache"
        if mesh.empty:
            return flash.blockwise_attention(q, k, v, tuple(spans), None, CHUNK_QUERIES)[0], None
        heads, rows = spec("batch", "length", "heads", None), spec("batch", "length")
        sharded = jax.shard_map(
            partial(_local_attention, context=mesh.shape["context"]),
            in_specs=(heads, heads, heads, (rows,) * 3),
            out_specs=heads,
        )
        return sharded(q, k, v, tuple(spans)), None

    return attend


def _local_attention(q, k, v, spans, *, context):
    """One device's queries against the whole row's keys."""
    if context == 1:
        return flash.blockwise_attention(q, k, v, spans, None, CHUNK_QUERIES)[0]
    k, v = (jax.lax.all_gather(x, "context", axis=1, tiled=True) for x in (k, v))
    start = (jax.lax.axis_index("context") * q.shape[1]).astype(jnp.int32)
    return flash.blockwise_attention(q, k, v, spans, start, CHUNK_QUERIES)[0]


def make_cached_attend(positions: jax.Array, slots: jax.Array | None, context: int) -> Attend:
    """Attention of new tokens over a KV cache that it also writes.

    Args:
      positions: int32 [B, T], each token's place in its slot; a place beyond the cache is not written.
      slots: int32 [B], the cache slot of each row; None: row i is slot i, which spares a gather.
      context: keys read, the first this many of each slot.

    The layer cache is (k, v), each [slots, K, C, E]. A token sees the places up to its own.
    """

    def attend(q, k, v, layer_cache):
        batch, length, heads, size = q.shape
        rows = jnp.arange(batch, dtype=jnp.int32) if slots is None else slots
        cache = tuple(
            constrain(c.at[rows[:, None], :, positions].set(new.astype(c.dtype), mode="drop"), *CACHE_AXES)
            for c, new in zip(layer_cache, (k, v), strict=True)
        )
        keys, values = (c[:, :, :context] if slots is None else c[slots, :, :context] for c in cache)
        grouped = q.reshape(batch, length, k.shape[2], heads // k.shape[2], size)
        scores = jnp.einsum("btkge,bkse->bkgts", grouped, keys, preferred_element_type=jnp.float32)
        seen = jnp.arange(context, dtype=jnp.int32)[None, None] <= positions[..., None]
        scores = jnp.where(seen[:, None, None], scores * size**-0.5, -1e30)
        weights = jax.nn.softmax(scores, axis=-1).astype(values.dtype)
        out = jnp.einsum("bkgts,bkse->btkge", weights, values)
        return out.reshape(batch, length, heads, size), cache

    return attend
