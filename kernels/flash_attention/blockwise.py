"""Blockwise attention in plain XLA: memory linear in length, exact gradients, any backend.

Queries go through in chunks. The backward pass recomputes the probabilities from the saved log-sum-exp, chunk by
chunk (FlashAttention-2, arXiv 2307.08691, §3.2), so no [T, S] array outlives a chunk.

All query heads of a key/value head are rows of one matrix [R, E], R = G·t, so that every product is a batch
of plain matrix products that XLA does without copying an array of scores. Which operand comes first matters
to it: the first one is what it transposes, where it has to.

Left out: chunks with no visible key are computed and masked, not skipped.
"""

from __future__ import annotations

import functools

import jax.numpy as jnp

from .mask import INDEX, OWN_LO, TRUNK_HI, TRUNK_LO

NEVER = -1e30  # finite: a row of −inf would make NaN in exp(s − max)
CHUNK = 64  # queries

_product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


def forward(q, k, v, mask, carry=None, chunk=CHUNK):
    """(output [B, H, T, E], log-sum-exp float32 [B, H, T]); see `Kernels.forward` of ring_attention."""
    outs, sums = [], []
    for lo, hi in _chunks(q.shape[2], chunk):
        count = hi if mask.aligned else k.shape[2]
        queries = _rows(q[:, :, lo:hi], k)
        scores = _scores(queries, k[:, :, :count], mask, lo, hi)
        top = jnp.maximum(
            scores.max(-1, keepdims=True), 0.5 * NEVER
        )  # exp(NEVER − top) is 0 also where all is NEVER
        if carry is not None:
            out_before, lse_before = (_rows(x[:, :, lo:hi], k) for x in carry)
            top = jnp.maximum(top, lse_before[..., None])
        weights = jnp.exp(scores - top)
        total = weights.sum(-1, keepdims=True)
        out = _product("bkrs,bkse->bkre", weights.astype(v.dtype), v[:, :, :count])
        if carry is not None:
            before = jnp.exp(lse_before[..., None] - top)
            total, out = total + before, out + before * out_before
        some = total > 0
        divisor = jnp.where(some, total, 1.0)
        lse = jnp.where(some, top + jnp.log(divisor), NEVER)
        outs.append(_heads(out / divisor, q, hi - lo).astype(q.dtype if carry is None else jnp.float32))
        sums.append(_heads(lse[..., 0], q, hi - lo))
    return jnp.concatenate(outs, 2), jnp.concatenate(sums, 2)


def backward(q, k, v, mask, lse, delta, d_out, dq_before, chunk=CHUNK):
    """(dq [B, H, T, E], dk and dv [B, K, S, E], float32); see `Kernels.backward` of ring_attention."""
    dq = []
    dk = jnp.zeros((*k.shape[:2], k.shape[3], k.shape[2]), jnp.float32)  # [B, K, E, S]
    dv = jnp.zeros_like(dk)
    scale = q.shape[-1] ** -0.5
    for lo, hi in _chunks(q.shape[2], chunk):
        count = hi if mask.aligned else k.shape[2]
        queries, do, total, taken = (_rows(x[:, :, lo:hi], k) for x in (q, d_out, lse, delta))
        scores = _scores(queries, k[:, :, :count], mask, lo, hi)
        weights = jnp.exp(scores - total[..., None])
        dv = dv.at[..., :count].add(_product("bkre,bkrs->bkes", do, weights.astype(v.dtype)))
        dp = _product("bkre,bkse->bkrs", do, v[:, :, :count])
        ds = (weights * (dp - taken[..., None]) * scale).astype(q.dtype)
        dq.append(_heads(_product("bkrs,bkse->bkre", ds, k[:, :, :count]), q, hi - lo))
        dk = dk.at[..., :count].add(_product("bkre,bkrs->bkes", queries, ds))
    dq = jnp.concatenate(dq, 2)
    dk, dv = (x.swapaxes(2, 3) for x in (dk, dv))
    return (dq if dq_before is None else dq_before + dq), dk, dv


def _chunks(length, chunk):
    return [(lo, min(lo + chunk, length)) for lo in range(0, length, chunk)]


def _rows(x, k):
    """[B, H, t, …] → [B, K, R, …], the rows of a key/value head together."""
    return x.reshape(*k.shape[:2], -1, *x.shape[3:])


def _heads(x, q, length):
    """[B, K, R, …] → [B, H, t, …]: undoes `_rows`."""
    return x.reshape(*q.shape[:2], length, *x.shape[3:])


def _scores(queries, keys, mask, lo, hi):
    """Masked, scaled scores float32 [B, K, R, s] of the queries lo … hi − 1, as rows, by these keys."""
    scores = _product("bkre,bkse->bkrs", queries, keys) * queries.shape[-1] ** -0.5
    trunk_lo, trunk_hi, own_lo, index = (
        mask.rows[:, i, lo:hi, None] for i in (TRUNK_LO, TRUNK_HI, OWN_LO, INDEX)
    )
    key = jnp.arange(keys.shape[2], dtype=jnp.int32) + mask.key_start
    key = key[None, None, :]
    seen = ((trunk_lo <= key) & (key < trunk_hi)) | ((own_lo <= key) & (key <= index))
    grouped = scores.reshape(*scores.shape[:2], -1, hi - lo, scores.shape[3])
    return jnp.where(seen[:, None, None], grouped, NEVER).reshape(scores.shape)
