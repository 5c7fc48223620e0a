"""Attention over two-span masks by our GPU kernels: padding and block sizes around gpu_forward.py and gpu_backward.py.

Left out: float32 operands on tensor cores (they are multiplied exactly, without), and gradients of the mask. Heads
whose size is no power of two are padded to one. The block sizes are for heads of 64 and 128: Hopper's were fastest on
an H100 (benchmarks/gpu_blocks.py, heads of 128 in bfloat16), the others follow from what the compiler says of
registers. These need 97.5 KB of shared memory: GPUs before Ampere have less.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from . import gpu_backward, gpu_forward
from .gpu_visits import Tile

LEAST = 16  # tokens of a block and numbers of a head: what a tensor core takes


class Tiles(NamedTuple):
    """The largest blocks of the forward kernel, of the one that makes dq, and of the one that makes dk and dv."""

    forward: Tile
    by_queries: Tile
    by_keys: Tile


HOPPER = Tiles(
    forward=Tile(queries=256, keys=64, warps=8, stages=3),
    by_queries=Tile(queries=128, keys=64, warps=8, stages=3),
    by_keys=Tile(queries=64, keys=128, warps=8, stages=3),
)
OTHERS = Tiles(
    forward=Tile(queries=128, keys=64, warps=8, stages=3),
    by_queries=Tile(queries=128, keys=64, warps=8, stages=2),
    by_keys=Tile(queries=64, keys=128, warps=8, stages=2),
)


def tiles() -> Tiles:
    """For the GPU at hand; where there is none, those that fit all."""
    try:
        capability = jax.devices("cuda")[0].compute_capability
    except RuntimeError:  # compiled for a GPU that is not here, or traced beside what runs
        return OTHERS
    return HOPPER if capability == "9.0" else OTHERS


def forward(
    q, k, v, mask, carry=None, *, largest: Tiles | None = None, interpret: bool = False
) -> tuple[jax.Array, jax.Array]:
    """(output [B, H, T, E], log-sum-exp float32 [B, H, T]); see `Kernels.forward` of ring_attention.

    largest: blocks, instead of `tiles()`. interpret: run on any backend, slowly, for tests.
    """
    length, size = q.shape[2:]
    tile = _fit_tile((largest or tiles()).forward, q, k)
    block = max(tile.queries, tile.keys)
    mask = mask.of_padded(q.shape[0], length, k.shape[2], block, block)
    if carry is not None:
        carry = _pad(carry[0], block), _pad_tokens(carry[1], block)
    q, k, v = (_pad(x, block) for x in (q, k, v))
    out, lse = gpu_forward.forward(q, k, v, mask, tile, size**-0.5, carry, interpret)
    return out[:, :, :length, :size], lse[:, :, :length]


def backward(
    q,
    k,
    v,
    mask,
    lse,
    delta,
    d_out,
    dq_before,
    *,
    largest: Tiles | None = None,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(dq [B, H, T, E], dk and dv [B, K, S, E], float32); see `Kernels.backward` of ring_attention, and `forward`."""
    length, size, keys = *q.shape[2:], k.shape[2]
    by_queries, by_keys = (_fit_tile(tile, q, k) for tile in (largest or tiles())[1:])
    block = max(by_queries.queries, by_queries.keys, by_keys.queries, by_keys.keys)
    mask = mask.of_padded(q.shape[0], length, keys, block, block)
    q, k, v, d_out = (_pad(x, block) for x in (q, k, v, d_out))
    lse, delta = (_pad_tokens(x, block) for x in (lse, delta))
    given = (q, k, v, mask, lse, delta, d_out)
    dq = None if dq_before is None else _pad(dq_before, block)
    dq = gpu_backward.dq_by_queries(*given, dq, by_queries, size**-0.5, interpret)
    dk, dv = gpu_backward.dk_dv_by_keys(*given, by_keys, size**-0.5, interpret)
    return dq[:, :, :length, :size], dk[:, :, :keys, :size], dv[:, :, :keys, :size]


def _fit_tile(tile: Tile, q: jax.Array, k: jax.Array) -> Tile:
    """This tile, smaller where there are fewer tokens, and a quarter of it for float32 operands, which need registers
    instead of tensor cores, and for heads of 256, which would fill fast memory."""
    share = max(1, _power(q.shape[3]) // 128) ** 2 * (4 if q.dtype == jnp.float32 else 1)
    part = lambda largest, tokens: min(max(LEAST, largest // share), _power(tokens))  # noqa: E731
    return dataclasses.replace(tile, queries=part(tile.queries, q.shape[2]), keys=part(tile.keys, k.shape[2]))


def _power(number: int) -> int:
    """The smallest power of two that holds it, and the least size of a block."""
    return max(LEAST, 1 << (number - 1).bit_length())


def _pad(x: jax.Array, block: int) -> jax.Array:
    """[B, H, T, E] with zeros, to whole blocks of tokens and a power of two of numbers."""
    return jnp.pad(x, ((0, 0), (0, 0), (0, -x.shape[2] % block), (0, _power(x.shape[3]) - x.shape[3])))


def _pad_tokens(x: jax.Array, block: int) -> jax.Array:
    """[B, H, T] with zeros, to whole blocks of tokens."""
    return jnp.pad(x, ((0, 0), (0, 0), (0, -x.shape[2] % block)))
