"""Exact attention, with its gradient, over keys that may go round a ring of devices (arXiv 2310.01889).

The state of the softmax goes from hop to hop through the kernel itself, as aliased inputs, and no condition stands
around it: so a TPU's compiler keeps the kernel between the start and the end of the transfer of the next keys. Forward,
a device begins with its own keys. Backward it ends with them, so that the keys' gradients, which travel along, are home
when the last kernel is done, and only the first transfer, of keys alone, has no kernel to hide behind.

One device is a ring of one.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from ..flash_attention.mask import Mask
from .zigzag import Zigzag

SAVED = "attention"  # the name of output and log-sum-exp, for rematerialisation policies
NEVER = -1e30
ALONE = Zigzag(devices=1, chunk=0)

Keys = jax.Array | tuple[jax.Array, ...]


@dataclasses.dataclass(frozen=True)
class Kernels:
    """What computes on one device. q: [B, H, T, E]; k, v: [B, K, S, E], H a multiple of K.

    forward: (q, k, v, mask, carry) → (output [B, H, T, E], log-sum-exp float32 [B, H, T]). The carry is None, and
      the output in q's dtype, or it is what forward gave for other keys, and the output float32, over all of them. A
      query that sees nothing gets zeros, and −1e30.
    backward: (q, k, v, mask, lse, delta, d_out, dq or None) → float32 (dq, with the given one added; dk; dv), where
      delta is Σ output · d_out − d_lse, float32 [B, H, T], and lse +1e30 where nothing was seen.
    """

    forward: Callable
    backward: Callable


@dataclasses.dataclass(frozen=True)
class Ring:
    """Who the devices are: every `stride`-th along the mesh axis is one of `layout.devices`; None: this one alone."""

    kernels: Kernels
    axis: str | None = None
    stride: int = 1
    layout: Zigzag = ALONE

    @property
    def hops(self) -> int:
        """Devices that keys go round."""
        return self.layout.devices

    def mask(self, mask: Mask, ahead: Any) -> Mask:
        """For the keys of the device so many places ahead of this one; with a ring."""
        own = jax.lax.div(jax.lax.axis_index(self.axis), self.stride)
        return self.layout.mask(mask.rows, jax.lax.rem(own + ahead + self.hops, self.hops))

    def shift(self, arrays: Any, ahead: int) -> Any:
        """What the device so many places ahead has."""
        size = self.hops * self.stride
        moves = [(device, (device - ahead * self.stride) % size) for device in range(size)]
        return jax.tree.map(lambda x: jax.lax.ppermute(x, self.axis, moves), arrays)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def attention(q: jax.Array, k: Keys, v: Keys, mask: Mask, ring: Ring) -> tuple[jax.Array, jax.Array]:
    """(output [B, H, T, E] in q's dtype, log-sum-exp float32 [B, H, T]).

    Args:
      q: [B, H, T, E]; k, v: [B, K, S, E], H a multiple of K; bfloat16 or float32. With a ring, this device's part;
        without one also tuples, of parts of the row that follow each other: then the mask is one of spans.
      mask: which keys each query sees; with a ring, spans in places of the whole row, as `Zigzag` lays it out.
    """
    return _forward(q, k, v, mask, ring)


def _forward(q, k, v, mask, ring) -> tuple[Any, ...]:
    nothing = jnp.zeros(q.shape, jnp.float32), jnp.full(q.shape[:3], NEVER, jnp.float32)
    if ring.hops == 1:
        first, *rest = _parts(k, v, mask)
        out, lse = ring.kernels.forward(q, *first, nothing if rest else None)
        for part in rest:
            out, lse = ring.kernels.forward(q, *part, (out, lse))
        return out.astype(q.dtype), lse

    def hop(carry, keys, number) -> Any:
        return ring.kernels.forward(q, *keys, ring.mask(mask, -number), carry)

    def step(state, number) -> tuple[Any, ...]:
        carry, keys = state
        following = ring.shift(keys, -1)
        return (hop(carry, keys, number), following), None

    (carry, keys), _ = jax.lax.scan(step, (nothing, (k, v)), jnp.arange(ring.hops - 1, dtype=jnp.int32))
    out, lse = hop(carry, keys, ring.hops - 1)
    return out.astype(q.dtype), lse


def _parts(k: Keys, v: Keys, mask: Mask) -> Iterator[tuple[jax.Array, jax.Array, Mask]]:
    """Keys, values and their mask, of each part of a row."""
    start = 0
    for keys, values in zip(jax.tree.leaves(k), jax.tree.leaves(v), strict=True):
        yield keys, values, dataclasses.replace(mask, key_start=mask.key_start + start) if start else mask
        start += keys.shape[2]


def _vjp_forward(q, k, v, mask, ring) -> tuple[Any, ...]:
    out, lse = _forward(q, k, v, mask, ring)
    out = checkpoint_name(out, SAVED)
    # In two dims: a v4's compiler aborts where a layer's part of [layers, 1, H, T] is to be copied to the host.
    lse = checkpoint_name(lse.reshape(-1, lse.shape[2]), SAVED).reshape(lse.shape)
    return (out, lse), (q, k, v, mask, out, lse)


def _vjp_backward(ring, saved, cotangents) -> Any:
    q, k, v, mask, out, lse = saved
    d_out, d_lse = cotangents
    delta = (out.astype(jnp.float32) * d_out.astype(jnp.float32)).sum(-1) - d_lse
    lse = jnp.where(lse > 0.5 * NEVER, lse, -NEVER)  # exp(NEVER − lse) is to be 0 also where nothing was seen

    def hop(dq, keys, ahead) -> tuple[Any, ...]:
        dq, *made = ring.kernels.backward(q, *keys, ring.mask(mask, ahead), lse, delta, d_out, dq)
        return dq, tuple(made)

    rounded = lambda *made: (*jax.tree.map(lambda x, like: x.astype(like.dtype), made, (q, k, v)), None)  # noqa: E731
    if ring.hops == 1:
        dq, made = None, []
        for part in _parts(k, v, mask):
            dq, *of_part = ring.kernels.backward(q, *part, lse, delta, d_out, dq)
            made.append(of_part)
        whole = jax.tree.structure(k)
        return rounded(dq, *(jax.tree.unflatten(whole, of_parts) for of_parts in zip(*made, strict=True)))

    add = lambda a, b: jax.tree.map(jnp.add, a, b)  # noqa: E731

    def step(state, number) -> tuple[Any, ...]:
        dq, keys, sums = state
        following, arrived = ring.shift(keys, 1), ring.shift(sums, 1)
        dq, made = hop(dq, keys, number + 1)
        return (dq, following, add(arrived, made)), None

    zeros = lambda x: jnp.zeros(x.shape, jnp.float32)  # noqa: E731
    start = zeros(q), ring.shift((k, v), 1), (zeros(k), zeros(v))
    (dq, keys, sums), _ = jax.lax.scan(step, start, jnp.arange(ring.hops - 1, dtype=jnp.int32))
    arrived = ring.shift(sums, 1)
    dq, made = hop(dq, keys, 0)
    return rounded(dq, *add(arrived, made))


attention.defvjp(_vjp_forward, _vjp_backward)
