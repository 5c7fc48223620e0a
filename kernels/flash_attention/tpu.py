"""Attention over two-span masks by our TPU kernels: the arrays of the model in, output and log-sum-exp out.

Left out: float32 operands at the matrix units' own precision (they are multiplied exactly, six times as slow), and
gradients of the mask. Heads of 64 and 128 are what the block sizes were measured for; others work.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from . import mask as m
from .backward import backward
from .blockwise import SAVED
from .forward import forward
from .strips import Blocks
from .tiling import BACKWARD, VMEM_BYTES, fitted, forward_blocks


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def flash_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: m.Mask,
    forward_blocks: Blocks | None = None,
    backward_blocks: Blocks = BACKWARD,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Attention output [B, T, H, E] in q's dtype and log-sum-exp float32 [B, T, H].

    Args:
      q: [B, T, H, E]; k, v: [B, S, K, E], H a multiple of K; bfloat16 or float32. Products are added up in float32.
      mask: what each query sees of these keys; "causal" needs T = S. A query that sees none gets zeros, and about
        −1e30 as log-sum-exp, which is what merging with other keys' results needs.
      forward_blocks, backward_blocks: the largest block sizes; None: the table's.
      interpret: run on any backend, slowly, for tests.
    """
    return _forward(q, k, v, mask, forward_blocks, interpret)


def _forward(q, k, v, mask, blocks, interpret):
    shape, keys = q.shape, k.shape[1]
    blocks = fitted(blocks or forward_blocks(mask.kind), shape[1], keys, q.dtype.itemsize)
    mask = _padded(mask, shape[0], shape[1], keys, blocks)
    q = _heads_first(_pad(q, blocks.queries))
    k, v = (_pad(x, blocks.segment) for x in (k, v))
    out, lse = forward(
        q, _heads_first(k), _turned(v), mask, blocks, interpret=interpret, vmem_bytes=VMEM_BYTES
    )
    return _rows_first(out, shape), jnp.swapaxes(lse.reshape(*shape[::2], -1)[..., : shape[1]], 1, 2)


def _vjp_forward(q, k, v, mask, blocks, _, interpret):
    out, lse = _forward(q, k, v, mask, blocks, interpret)
    out, lse = checkpoint_name(out, SAVED), checkpoint_name(lse, SAVED)
    return (out, lse), (q, k, v, mask, out, lse)


def _vjp_backward(_, blocks, interpret, saved, cotangents):
    q, k, v, mask, out, lse = saved
    d_out, d_lse = cotangents
    shape, keys = q.shape, k.shape[1]
    blocks = fitted(blocks, shape[1], keys, q.dtype.itemsize)
    delta = (out.astype(jnp.float32) * d_out.astype(jnp.float32)).sum(-1) - d_lse
    # Padding, and queries that saw nothing: exp(score − lse) must not be inf · 0 for them.
    lse = jnp.where(lse > -1e29, lse, 1e30)
    lse, delta = (_lanes(_pad(x, blocks.queries)) for x in (lse, delta))
    queries, d_out = (_heads_first(_pad(x, blocks.queries)) for x in (q, d_out))
    keys_padded, values = (_pad(x, blocks.segment) for x in (k, v))
    mask = _padded(mask, shape[0], shape[1], keys, blocks)
    segments = keys_padded.shape[1] // blocks.segment
    if segments > 1:
        mask = _as_spans(mask, shape[0], queries.shape[1], keys)

    def step(dq, segment):
        number, key, value = segment
        here = mask
        if segments > 1:
            here = dataclasses.replace(mask, key_start=mask.key_start + number * blocks.segment)
        gradients = backward(
            queries, d_out, lse, delta, _heads_first(key), _turned(key), _heads_first(value), dq, here, blocks,
            interpret=interpret, vmem_bytes=VMEM_BYTES,
        )  # fmt: skip
        return gradients[0], gradients[1:]

    cut = lambda x: jnp.moveaxis(x.reshape(x.shape[0], segments, -1, *x.shape[2:]), 1, 0)  # noqa: E731
    numbers = jnp.arange(segments, dtype=jnp.int32)
    dq = jax.lax.pcast(
        jnp.zeros(queries.shape, jnp.float32),
        tuple(jax.typeof(queries).manual_axis_type.varying),
        to="varying",
    )
    if segments == 1:
        dq, (dk, dv) = step(dq, (0, keys_padded, values))
    else:
        dq, (dk, dv) = jax.lax.scan(step, dq, (numbers, cut(keys_padded), cut(values)))
        dk, dv = (jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1, x.shape[3]) for x in (dk, dv))
    return _rows_first(dq, shape).astype(q.dtype), _rows_first(dk, k.shape), _rows_first(dv, k.shape), None


flash_attention.defvjp(_vjp_forward, _vjp_backward)


def _padded(mask: m.Mask, batch: int, queries: int, keys: int, blocks: Blocks) -> m.Mask:
    """The mask of padded arrays: padding sees nothing and is not seen."""
    if mask.kind == "causal":
        assert queries == keys, (queries, keys)
        return mask  # padding comes after all that is there
    if mask.kind == "full" and keys % blocks.segment == 0:
        return mask
    mask = _as_spans(mask, batch, queries, keys)
    end = mask.key_start + keys
    rows = mask.rows.at[:, m.TRUNK_HI].min(end).at[:, m.INDEX].min(end - 1)
    return dataclasses.replace(mask, rows=rows).padded(-queries % blocks.queries)


def _as_spans(mask: m.Mask, batch: int, queries: int, keys: int) -> m.Mask:
    """The same mask with the table that several segments, or padding, need."""
    if mask.kind == "spans":
        return mask
    zeros = jnp.zeros((batch, queries), jnp.int32)
    trunk = zeros + (keys if mask.kind == "full" else 0)
    own = zeros + (queries if mask.kind == "full" else 0)  # beyond every place
    return m.Mask.of_spans((zeros, trunk, own), jnp.arange(queries, dtype=jnp.int32))


def _pad(x: jax.Array, multiple: int) -> jax.Array:
    """[B, T, …] with zeros after the last token."""
    more = -x.shape[1] % multiple
    return jnp.pad(x, ((0, 0), (0, more), *((0, 0),) * (x.ndim - 2))) if more else x


def _heads_first(x: jax.Array) -> jax.Array:
    """[B, T, H, E] → [B·H, T, E]."""
    return jnp.swapaxes(x, 1, 2).reshape(-1, x.shape[1], x.shape[3])


def _turned(x: jax.Array) -> jax.Array:
    """[B, T, H, E] → [B·H, E, T]."""
    return x.transpose(0, 2, 3, 1).reshape(-1, x.shape[3], x.shape[1])


def _lanes(x: jax.Array) -> jax.Array:
    """[B, T, H] → [B·H, 1, T]."""
    return jnp.swapaxes(x, 1, 2).reshape(-1, 1, x.shape[1])


def _rows_first(x: jax.Array, shape: Any) -> jax.Array:
    """[B·H, T′, E] → [B, T, H, E] of this shape."""
    batch, length, heads, size = shape
    return jnp.swapaxes(x.reshape(batch, heads, -1, size)[:, :, :length], 1, 2)
