"""Sums over sequences inside a row, wherever their tokens lie in it.

A sequence never spans rows, but a context axis cuts it and changes the order of its tokens, and it may be a trunk with
branches. So it is known by its index in `batch.sequence` and by nothing else.

On GPUs a scatter adds in no fixed order, so the last bits of `own_sums` may differ from run to run.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mirothinker_jax.types import Array


def sequence_sums(values: Array, sequence: Array, count: int) -> Array:
    """Sums of values [B, T] per sequence index: [B, count]. Index −1 belongs to none."""
    member = sequence[..., None] == jnp.arange(count, dtype=sequence.dtype)[None, None]
    return jnp.einsum("bt,btn->bn", values, member.astype(values.dtype))


def own_sums(values: Array, sequence: Array) -> Array:
    """At each position of values [B, T], the sum over the sequence it belongs to; without a sequence, 0.

    A row holds as many sequences as fit, up to T: hence a scatter, where `sequence_sums` takes a product.
    """

    def of_row(values: Array, sequence: Array) -> Array:
        length = values.shape[0]
        place = jnp.where(sequence < 0, length, sequence)  # beyond the end: dropped, and read as 0
        sums = jnp.zeros_like(values).at[place].add(values, mode="drop")
        return sums.at[place].get(mode="fill", fill_value=0)

    return jax.vmap(of_row)(values, sequence)
