"""Attention over two-span masks in twenty lines of float32: what every kernel is tested against."""

import jax
import jax.numpy as jnp


def visible(trunk_lo, trunk_hi, own_lo, query_index, key_index):
    """Bool [B, T, S]: may the query see the key? Keys of a query: [trunk_lo, trunk_hi) and [own_lo, own index].

    trunk_lo, trunk_hi, own_lo: int32 [B, T]; query_index int32 [T] and key_index int32 [S]: places in the row.
    """
    key = key_index[None, None, :]
    trunk = (trunk_lo[..., None] <= key) & (key < trunk_hi[..., None])
    return trunk | ((own_lo[..., None] <= key) & (key <= query_index[None, :, None]))


def reference_attention(q, k, v, spans):
    """q [B, T, H, E], k and v [B, T, K, E], spans: three int32 [B, T] → [B, T, H, E] in q's dtype."""
    batch, length, heads, size = q.shape
    grouped = q.reshape(batch, length, k.shape[2], -1, size).astype(jnp.float32)
    scores = jnp.einsum("btkge,bske->bkgts", grouped, k.astype(jnp.float32)) * size**-0.5
    index = jnp.arange(length, dtype=jnp.int32)
    trunk_lo, trunk_hi, own_lo = spans
    mask = visible(trunk_lo, trunk_hi, own_lo, index, index)[:, None, None]
    weights = jax.nn.softmax(jnp.where(mask, scores, -jnp.inf), axis=-1)
    out = jnp.einsum("bkgts,bske->btkge", weights, v.astype(jnp.float32))
    return out.reshape(batch, length, heads, size).astype(q.dtype)
