"""Blockwise attention in plain XLA: memory linear in length, exact gradients, any backend.

Queries go through in chunks; a chunk sees the keys up to its own end only, since no span reaches past
the query's own index. The backward pass recomputes the probabilities from the saved log-sum-exp, chunk by
chunk (FlashAttention-2, arXiv 2307.08691, §3.2), so no [T, S] array outlives a chunk.

All query heads of a key/value head are rows of one matrix [R, E], R = G·t, so that every product is a batch
of plain matrix products that XLA does without copying an array of scores. Which operand comes first matters
to it: the first one is what it transposes, where it has to. Output and log-sum-exp carry the name SAVED, for
a rematerialisation policy to keep them.

Left out: chunks with no visible key are computed and masked, not skipped.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from .reference import visible

NEVER = -1e30  # finite: a row of −inf would make NaN in exp(s − max)
SAVED = "attention"

_product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def blockwise_attention(q, k, v, spans, query_start, chunk):
    """Attention output and log-sum-exp of queries that start at row index `query_start`.

    Args:
      q: [B, T, H, E]; k, v: [B, S, K, E], the keys 0 … S − 1 of the row; H a multiple of K.
      spans: three int32 [B, T] (trunk_lo, trunk_hi, own_lo), in row indices.
      query_start: int32 scalar array, the row index of the first query; or None where T = S, in which
        case each chunk reads only the keys up to its end.
      chunk: queries per block.

    Returns:
      (output [B, T, H, E] in q's dtype, log-sum-exp float32 [B, T, H]; both matter where partial results
      are merged). Every query must see at least one key (padding sees itself).
    """
    return _forward(q, k, v, spans, query_start, chunk)


def _chunks(length, chunk):
    return [(lo, min(lo + chunk, length)) for lo in range(0, length, chunk)]


def _gather(x, kv_heads):
    """[B, t, H, …] → [B, K, R, …], the rows of a key/value head together."""
    batch, length, heads = x.shape[:3]
    x = x.reshape(batch, length, kv_heads, heads // kv_heads, *x.shape[3:])
    return jnp.moveaxis(x, 1, 3).reshape(batch, kv_heads, -1, *x.shape[4:])


def _scatter(x, length):
    """[B, K, R, …] → [B, t, H, …]: undoes `_gather`."""
    batch, kv_heads = x.shape[:2]
    x = x.reshape(batch, kv_heads, -1, length, *x.shape[3:])
    return jnp.moveaxis(x, 3, 1).reshape(batch, length, -1, *x.shape[4:])


def _scores(queries, keys, spans, first, lo, hi):
    """Masked, scaled scores float32 [B, K, R, s] of the row's queries lo … hi − 1, gathered, by these keys."""
    scores = _product("bkre,bkse->bkrs", queries, keys) * queries.shape[-1] ** -0.5
    trunk_lo, trunk_hi, own_lo = (s[:, lo:hi] for s in spans)
    queries_at = first + jnp.arange(lo, hi, dtype=jnp.int32)
    keys_at = jnp.arange(keys.shape[2], dtype=jnp.int32)
    seen = visible(trunk_lo, trunk_hi, own_lo, queries_at, keys_at)[:, None, None]
    grouped = scores.reshape(*scores.shape[:2], -1, hi - lo, scores.shape[3])
    return jnp.where(seen, grouped, NEVER).reshape(scores.shape)


def _start(query_start):
    return jnp.int32(0) if query_start is None else query_start


def _forward(q, k, v, spans, query_start, chunk):
    keys, values = k.swapaxes(1, 2), v.swapaxes(1, 2)  # [B, K, S, E]
    outs, sums = [], []
    for lo, hi in _chunks(q.shape[1], chunk):
        count = keys.shape[2] if query_start is not None else hi
        queries = _gather(q[:, lo:hi], keys.shape[1])
        scores = _scores(queries, keys[:, :, :count], spans, _start(query_start), lo, hi)
        top = scores.max(-1, keepdims=True)
        weights = jnp.exp(scores - top)
        total = weights.sum(-1, keepdims=True)
        out = _product("bkrs,bkse->bkre", weights.astype(v.dtype), values[:, :, :count]) / total
        outs.append(_scatter(out, hi - lo).astype(q.dtype))
        sums.append(_scatter((top + jnp.log(total))[..., 0], hi - lo))
    return jnp.concatenate(outs, 1), jnp.concatenate(sums, 1)


def _vjp_forward(q, k, v, spans, query_start, chunk):
    out, lse = (checkpoint_name(x, SAVED) for x in _forward(q, k, v, spans, query_start, chunk))
    return (out, lse), (q, k, v, spans, query_start, out, lse)


def _vjp_backward(chunk, saved, cotangents):
    q, k, v, spans, query_start, out, lse = saved
    d_out, d_lse = cotangents
    batch, kv_heads, size = k.shape[0], k.shape[2], k.shape[3]
    keys, values = k.swapaxes(1, 2), v.swapaxes(1, 2)  # [B, K, S, E]
    dq = []
    dk = jnp.zeros((batch, kv_heads, size, k.shape[1]), jnp.float32)  # [B, K, E, S]
    dv = jnp.zeros_like(dk)
    # Σ_e o·do − dlse per query: what the softmax's normalisation takes off each score's gradient.
    delta = (out.astype(jnp.float32) * d_out.astype(jnp.float32)).sum(-1) - d_lse
    for lo, hi in _chunks(q.shape[1], chunk):
        count = keys.shape[2] if query_start is not None else hi
        queries, do, total, taken = (_gather(x[:, lo:hi], kv_heads) for x in (q, d_out, lse, delta))
        scores = _scores(queries, keys[:, :, :count], spans, _start(query_start), lo, hi)
        weights = jnp.exp(scores - total[..., None])
        dv = dv.at[..., :count].add(_product("bkre,bkrs->bkes", do, weights.astype(v.dtype)))
        dp = _product("bkre,bkse->bkrs", do, values[:, :, :count])
        ds = (weights * (dp - taken[..., None]) * size**-0.5).astype(q.dtype)
        dq_chunk = _product("bkrs,bkse->bkre", ds, keys[:, :, :count])
        dq.append(_scatter(dq_chunk, hi - lo).astype(q.dtype))
        dk = dk.at[..., :count].add(_product("bkre,bkrs->bkes", queries, ds))
    dk, dv = (x.transpose(0, 3, 1, 2) for x in (dk, dv))
    return jnp.concatenate(dq, 1), dk.astype(k.dtype), dv.astype(v.dtype), None, None


blockwise_attention.defvjp(_vjp_forward, _vjp_backward)
