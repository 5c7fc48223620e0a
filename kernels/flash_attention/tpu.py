"""Attention over two-span masks by our TPU kernels: padding, blocks and layouts around forward.py and backward.py.

Left out: float32 operands at the matrix units' own precision (they are multiplied exactly, six times as slow), and
gradients of the mask. Heads of 64 and 128 are what the block sizes were measured for; others work, but on a
v4 larger ones do not fit.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from ..pallas import vmem_bytes
from . import backward as backward_kernel
from . import forward as forward_kernel
from . import tiling
from .strips import Blocks

# Segments of keys that are calls one after the other, which is what a ring's schedules were read with; more are a loop.
UNROLLED = 8


def forward(
    q, k, v, mask, carry=None, *, largest: Blocks | None = None, interpret: bool = False
) -> tuple[jax.Array, jax.Array]:
    """(output [B, H, T, E], log-sum-exp float32 [B, H, T]); see `Kernels.forward` of ring_attention.

    largest: the largest block sizes; None: the table's. interpret: run on any backend, slowly, for tests.
    """
    length, keys = q.shape[2], k.shape[2]
    blocks = tiling.fit_blocks(
        largest or tiling.largest("forward"), length, keys, q.dtype.itemsize, exact=mask.kind == "full"
    )
    mask = mask.of_padded(q.shape[0], length, keys, blocks.queries, blocks.segment)
    if carry is not None:
        out, lse = (_pad(x, blocks.queries) for x in carry)
        carry = _flat(out), _lanes(lse)
    k, v = (_flat(_pad(x, blocks.segment)) for x in (k, v))
    out, lse = forward_kernel.forward(
        *(_flat(_pad(q, blocks.queries)), k, v.swapaxes(1, 2), mask, blocks, carry),
        interpret=interpret,
        vmem_bytes=vmem_bytes(),
    )
    return _unflat(out, q), _unflat(lse[:, 0], q)


def backward(
    q, k, v, mask, lse, delta, d_out, dq_before, *, largest: Blocks | None = None, interpret: bool = False
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(dq [B, H, T, E], dk and dv [B, K, S, E], float32); see `Kernels.backward` of ring_attention."""
    length, keys = q.shape[2], k.shape[2]
    blocks = tiling.fit_blocks(
        largest or tiling.largest("backward"), length, keys, q.dtype.itemsize, exact=mask.kind == "full"
    )
    lse, delta = (_lanes(_pad(x, blocks.queries)) for x in (lse, delta))
    queries, d_out = (_flat(_pad(x, blocks.queries)) for x in (q, d_out))
    k_flat, v_flat = (_flat(_pad(x, blocks.segment)) for x in (k, v))
    mask = mask.of_padded(q.shape[0], length, keys, blocks.queries, blocks.segment)
    segments = k_flat.shape[1] // blocks.segment
    if segments > 1:
        mask = mask.as_spans(q.shape[0], queries.shape[1], keys)

    def step(number, state) -> tuple[Any, ...]:
        dq, made = state
        here = mask
        if segments > 1:
            here = dataclasses.replace(mask, key_start=mask.key_start + number * blocks.segment)
        dq, *made = backward_kernel.backward(
            *(queries, d_out, lse, delta, k_flat, k_turned, v_flat, dq, made, number, here, blocks),
            interpret=interpret,
            vmem_bytes=vmem_bytes(),
        )
        return dq, tuple(made)

    k_turned = k_flat.swapaxes(1, 2)
    if dq_before is None:
        dq_before = jnp.zeros(q.shape, jnp.float32)
    # What no segment has written yet may be anything. One kind of call, which is compiled once.
    made = tuple(jax.lax.empty(x.shape, jnp.float32) for x in (k_flat, v_flat))
    state = _flat(_pad(dq_before, blocks.queries)), made
    if segments <= UNROLLED:
        for number in range(segments):
            state = step(number, state)
    else:
        state = jax.lax.fori_loop(0, segments, step, state)
    dq, (dk, dv) = state
    return _unflat(dq, q), _unflat(dk, k), _unflat(dv, k)


def _pad(x: jax.Array, multiple: int) -> jax.Array:
    """[B, H, T, …] with zeros after the last token."""
    more = -x.shape[2] % multiple
    return jnp.pad(x, ((0, 0), (0, 0), (0, more), *((0, 0),) * (x.ndim - 3))) if more else x


def _flat(x: jax.Array) -> jax.Array:
    """[B, H, T, …] → [B·H, T, …]."""
    return x.reshape(-1, *x.shape[2:])


def _lanes(x: jax.Array) -> jax.Array:
    """[B, H, T] → [B·H, 1, T]."""
    return _flat(x)[:, None]


def _unflat(x: jax.Array, like: Any) -> jax.Array:
    """[B·H, T′, …] → [B, H, T, …] of these sizes."""
    batch, heads, length, _ = like.shape
    return x.reshape(batch, heads, *x.shape[1:])[:, :, :length]
