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
from typing import Any

import jax
import jax.numpy as jnp

from .mask import INDEX, OWN_LO, TRUNK_HI, TRUNK_LO

NEVER = -1e30  # finite: a row of −inf would make NaN in exp(s − max)
CHUNK = 64  # queries
BANDS = 32  # stretches of queries that are written out one after the other; a longer one is a loop over its chunks

_product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


def forward(q, k, v, mask, carry=None, chunk=CHUNK) -> tuple[jax.Array, jax.Array]:
    """(output [B, H, T, E], log-sum-exp float32 [B, H, T]); see `Kernels.forward` of ring_attention."""

    def part(_, arrays, count) -> tuple[Any, ...]:
        q, rows, *carry = arrays
        queries, length = _rows(q, k), q.shape[2]
        scores = _scores(queries, k[:, :, :count], rows, mask.key_start)
        top = jnp.maximum(
            scores.max(-1, keepdims=True), 0.5 * NEVER
        )  # exp(NEVER − top) is 0 also where all is NEVER
        if carry:
            out_before, lse_before = (_rows(x, k) for x in carry)
            top = jnp.maximum(top, lse_before[..., None])
        weights = jnp.exp(scores - top)
        total = weights.sum(-1, keepdims=True)
        out = _product("bkrs,bkse->bkre", weights.astype(v.dtype), v[:, :, :count])
        if carry:
            before = jnp.exp(lse_before[..., None] - top)
            total, out = total + before, out + before * out_before
        some = total > 0
        divisor = jnp.where(some, total, 1.0)
        out = (out / divisor).astype(jnp.float32 if carry else q.dtype)
        lse = jnp.where(some, top + jnp.log(divisor), NEVER)
        return None, (_heads(out, q, length), _heads(lse[..., 0], q, length))

    return _over_chunks(part, None, (q, mask.rows, *(carry or ())), mask.aligned, k.shape[2], chunk)[1]


def backward(
    q, k, v, mask, lse, delta, d_out, dq_before, chunk=CHUNK
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(dq [B, H, T, E], dk and dv [B, K, S, E], float32); see `Kernels.backward` of ring_attention."""
    scale = q.shape[-1] ** -0.5

    def part(sums, arrays, count) -> tuple[Any, ...]:
        rows, length = arrays[0], arrays[1].shape[2]
        queries, do, total, taken = (_rows(x, k) for x in arrays[1:])
        dk, dv = sums
        scores = _scores(queries, k[:, :, :count], rows, mask.key_start)
        weights = jnp.exp(scores - total[..., None])
        dv = dv.at[..., :count].add(_product("bkre,bkrs->bkes", do, weights.astype(v.dtype)))
        dp = _product("bkre,bkse->bkrs", do, v[:, :, :count])
        ds = (weights * (dp - taken[..., None]) * scale).astype(q.dtype)
        dk = dk.at[..., :count].add(_product("bkre,bkrs->bkes", queries, ds))
        dq = _heads(_product("bkrs,bkse->bkre", ds, k[:, :, :count]), q, length)
        return (dk, dv), (dq,)

    zeros = jnp.zeros((*k.shape[:2], k.shape[3], k.shape[2]), jnp.float32)  # [B, K, E, S]
    arrays = mask.rows, q, d_out, lse, delta
    sums, (dq,) = _over_chunks(part, (zeros, zeros), arrays, mask.aligned, k.shape[2], chunk)
    dk, dv = (x.swapaxes(2, 3) for x in sums)
    return (dq if dq_before is None else dq_before + dq), dk, dv


def _over_chunks(part, state, arrays, aligned, keys, chunk) -> tuple[Any, ...]:
    """`part(state, chunk of arrays, keys it may need) → (state, results)` over chunks of dim 2; the last state, and the
    results together again."""
    length, made = arrays[0].shape[2], []
    band = -(-length // (BANDS * chunk)) * chunk
    for begin in range(0, length, band):
        end = min(begin + band, length)
        count = end if aligned else keys
        whole = begin + (end - begin) // chunk * chunk
        for lo, hi in ((begin, whole), (whole, end)):
            cut = [x[:, :, lo:hi] for x in arrays]
            if hi - lo > chunk:
                split = lambda x: jnp.moveaxis(x.reshape(*x.shape[:2], -1, chunk, *x.shape[3:]), 2, 0)  # noqa: E731
                state, out = jax.lax.scan(
                    lambda state, xs, count=count: part(state, xs, count), state, [split(x) for x in cut]
                )
                joined = (jnp.moveaxis(x, 0, 2) for x in out)
                made.append([x.reshape(*x.shape[:2], hi - lo, *x.shape[4:]) for x in joined])
            elif hi > lo:
                state, out = part(state, cut, count)
                made.append(out)
    return state, tuple(jnp.concatenate(x, 2) for x in zip(*made, strict=True))


def _rows(x, k) -> jax.Array:
    """[B, H, t, …] → [B, K, R, …], the rows of a key/value head together."""
    return x.reshape(*k.shape[:2], -1, *x.shape[3:])


def _heads(x, q, length) -> jax.Array:
    """[B, K, R, …] → [B, H, t, …]: undoes `_rows`."""
    return x.reshape(*q.shape[:2], length, *x.shape[3:])


def _scores(queries, keys, spans, key_start) -> jax.Array:
    """Masked, scaled scores float32 [B, K, R, s] of queries, as rows, by keys; spans [B, 4, t] of `Mask.rows`."""
    scores = _product("bkre,bkse->bkrs", queries, keys) * queries.shape[-1] ** -0.5
    trunk_lo, trunk_hi, own_lo, index = (spans[:, i, :, None] for i in (TRUNK_LO, TRUNK_HI, OWN_LO, INDEX))
    key = jnp.arange(keys.shape[2], dtype=jnp.int32) + key_start
    key = key[None, None, :]
    seen = ((trunk_lo <= key) & (key < trunk_hi)) | ((own_lo <= key) & (key <= index))
    grouped = scores.reshape(*scores.shape[:2], -1, spans.shape[2], scores.shape[3])
    return jnp.where(seen[:, None, None], grouped, NEVER).reshape(scores.shape)
