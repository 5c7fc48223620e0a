"""The ways in which the devices of an axis attend to one row together, all with the same result.

ring: keys go round (ring.py). all-gather: every device gets all keys, for its own queries. ulysses: devices exchange
tokens for heads, so that each has all tokens of a part of the heads (arXiv 2309.14509). `ulysses` devices next to
each other may exchange heads first and go round in a ring of such groups (USP, arXiv 2405.07719).
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp

from ..flash_attention.mask import Mask
from .ring import Kernels, Ring, attention
from .zigzag import Zigzag

AUTO, GATHER, RING = "auto", "all-gather", "ring"
# Flops that a TPU does while a byte travels to a neighbour: v5p 459e12 / 90e9 = 5,100, v6e 918e12 / 90e9 = 10,200, and
# a device of a tpu7x 1153.5e12 / 50e9 = 23,100, of which its attention kernels reach at most a half. Twice a v6e's.
# Groups that exchanged heads are neighbours' neighbours, whose transfers may share links: that is not counted.
FLOPS_PER_BYTE = 20_000


@dataclasses.dataclass(frozen=True)
class Strategy:
    """keys: how they reach the queries of other devices, ring or all-gather; ulysses: devices that exchange heads."""

    keys: str
    ulysses: int = 1


def choose(
    tokens: int, heads: int, kv_heads: int, devices: int, keys: str = AUTO, ulysses: int = 0
) -> Strategy:
    """By the tokens of a device and its heads, both before any exchange. keys and ulysses, where given, stay.

    A hop of the ring is hidden where its products take longer than its transfer: about T / 2 · H / K flops for every
    byte of keys and values in bfloat16. Where chunks are too small for that, ring attention loses. There all keys are
    gathered, or heads are exchanged first, among as many neighbours as have key/value heads for it: where that takes
    the links less, and makes chunks long enough for a ring of such groups, or leaves nothing to go round
    (docs/notes/kernels.md has times and memory of each).
    """

    def hidden(exchange: int) -> bool:
        # Beyond one key/value head a device, an exchange repeats them.
        return tokens * exchange // 2 * (heads // max(kv_heads, exchange)) >= FLOPS_PER_BYTE

    if not ulysses:
        most = math.gcd(devices, kv_heads)
        # Heads of a token that cross a link: what the others have of keys and values, or what is exchanged of these
        # and of queries and results, of which that grows with a quarter of those who take part.
        gathered = (devices - 1) * 2 * kv_heads
        exchanged = max(1.0, most / 4) * (most - 1) / most * 2 * (heads + kv_heads)
        pays = exchanged < gathered and (hidden(most) or most == devices)
        ulysses = most if keys == AUTO and not hidden(1) and pays else 1
    if keys == AUTO:
        keys = RING if hidden(ulysses) and devices > ulysses else GATHER
    return Strategy(keys, ulysses)


def context_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    rows: jax.Array,
    strategy: Strategy,
    axis: str,
    kernels: Kernels,
) -> jax.Array:
    """Output [B, H, T, E] of this device's queries over the whole row; inside a shard_map.

    Args:
      q: [B, H, T, E]; k, v: [B, K, T, E]: tokens as `Zigzag` lays them out over the axis.
      rows: int32 [B, 4, T], `Mask.rows` of the queries, in places of the row.

    Raises ValueError where the heads cannot be exchanged among so many devices.
    """
    devices, heads = jax.lax.axis_size(axis), q.shape[1]
    exchange = strategy.ulysses
    if devices % exchange or heads % exchange:
        raise ValueError(
            f"ulysses={exchange} divides not both {devices} devices of {axis!r} and {heads} heads"
        )
    if exchange > 1:
        group = _Group(axis, devices, exchange)
        repeated = -(-exchange // k.shape[1])
        if k.shape[1] * repeated % exchange:
            raise ValueError(
                f"ulysses={exchange} neither divides {k.shape[1]} key/value heads nor is a multiple"
            )
        k, v = (jnp.repeat(x, repeated, axis=1) for x in (k, v))
        q, k, v = (group.tokens_for_heads(x) for x in (q, k, v))
        rows = group.gathered(rows)
    tokens, circle = q.shape[2], devices // exchange
    layout = Zigzag(circle, tokens // 2)
    mask = Mask("spans", rows, jnp.int32(0), aligned=circle == 1)
    ring, keys, values = Ring(kernels), k, v
    if strategy.keys == RING and circle > 1:
        ring = Ring(kernels, axis, exchange, layout)
    elif circle > 1:
        keys, values = (_halves(x, axis, devices, exchange) for x in (k, v))
    out, _ = attention(q, keys, values, mask, ring)  # pyright: ignore[reportGeneralTypeIssues]
    return group.heads_for_tokens(out) if exchange > 1 else out


def _all_gather(x: jax.Array, axis: str, groups: list[list[int]]) -> jax.Array:
    """[B, K, T, E] → [B, K, devices · T, E] of each group."""
    return jax.lax.all_gather(x, axis, axis=2, tiled=True, axis_index_groups=groups)


def _halves(x: jax.Array, axis: str, devices: int, stride: int) -> tuple[jax.Array, jax.Array]:
    """[B, K, T, E] of `Zigzag` → the row's first half, which the devices' first chunks are, and its second, which their
    second ones are from behind; of every `stride`-th device."""
    groups = [[*range(first, devices, stride)] for first in range(stride)]
    first, second = jnp.split(x, 2, axis=2)
    return _all_gather(first, axis, groups), _all_gather(second, axis, [g[::-1] for g in groups])


def _in_order(x: jax.Array, devices: int) -> jax.Array:
    """What devices of a `Zigzag` layout have, one after the other along dim 2, in the row's order."""
    chunks = x.reshape(*x.shape[:2], devices, 2, -1, *x.shape[3:])
    both = jnp.concatenate([chunks[:, :, :, 0], chunks[:, :, ::-1, 1]], axis=2)
    return both.reshape(x.shape)


def _apart(x: jax.Array, devices: int) -> jax.Array:
    """Undoes `_in_order`."""
    chunks = x.reshape(*x.shape[:2], 2, devices, -1, *x.shape[3:])
    return jnp.stack([chunks[:, :, 0], chunks[:, :, 1, ::-1]], axis=3).reshape(x.shape)


@dataclasses.dataclass(frozen=True)
class _Group:
    """`size` devices next to each other on the axis. Together they hold what one device of a `Zigzag` does whose chunks
    are so many times as long."""

    axis: str
    devices: int
    size: int

    @property
    def members(self) -> list[list[int]]:
        return [[*range(first, first + self.size)] for first in range(0, self.devices, self.size)]

    def tokens_for_heads(self, x: jax.Array) -> jax.Array:
        """[B, H, T, E] → [B, H / size, size · T, E]."""
        x = jax.lax.all_to_all(x, self.axis, 1, 2, tiled=True, axis_index_groups=self.members)
        return _in_order(x, self.size)

    def heads_for_tokens(self, x: jax.Array) -> jax.Array:
        """Undoes `tokens_for_heads`."""
        x = _apart(x, self.size)
        return jax.lax.all_to_all(x, self.axis, 2, 1, tiled=True, axis_index_groups=self.members)

    def gathered(self, rows: jax.Array) -> jax.Array:
        """int32 [B, 4, T] → [B, 4, size · T]."""
        rows = _all_gather(rows, self.axis, self.members)
        return _in_order(rows, self.size)
