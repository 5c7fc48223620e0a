"""How far two policies are apart on what was sampled: ratios of tokens and of sequences, weights and masks.

All are of log-ratios bounded to ±20 nats, so none of them overflows. A *sequence* is what a row holds of a trajectory:
the whole of it, or, where its context was edited, a trunk with branches (trajectory/tree.py).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mirothinker_jax.objectives.sequences import own_sums
from mirothinker_jax.objectives.tokens import bounded_log_ratio, without_value
from mirothinker_jax.types import Array, Batch


def sequence_log_ratio(log_ratio: Array, batch: Batch, mean: bool) -> Array:
    """At each position, the sum (or mean) of the log-ratios [B, T] of its sequence's trained tokens, within ±20 nats.

    `log_ratio` is 0 where nothing is trained.
    """
    total = own_sums(log_ratio, batch.sequence)
    if mean:
        tokens = own_sums((batch.weights > 0).astype(total.dtype), batch.sequence)
        total = total / jnp.maximum(tokens, 1.0)
    return bounded_log_ratio(total, jnp.zeros_like(total))


def gspo_log_ratio(log_ratio: Array, batch: Batch) -> Array:
    """GSPO's (arXiv 2507.18071, eq. 7): the mean over the sequence in value, with each token's own gradient.

    That is its token form, eq. 14. Where all tokens of a sequence have one advantage and one weight, as here, the loss
    and its gradient are those of the sequence form, and no gradient has to cross from one token to another.
    """
    return sequence_log_ratio(jax.lax.stop_gradient(log_ratio), batch, mean=True) + without_value(log_ratio)


def sampler_weights(log_ratio: Array, batch: Batch, kind: str, low: float, high: float) -> Array:
    """Importance weights [B, T] for the way to the sampler, from log(π/μ) of tokens, no gradient.

    "tis" truncates each token's ratio at `high` (arXiv 2508.03680-style); "icepop" zeroes those outside [low, high] and
    leaves the denominator of the loss as it is; "sequence-tis" truncates the product over the sequence.
    """
    log_ratio = jax.lax.stop_gradient(log_ratio)
    if kind == "none":
        return jnp.ones_like(log_ratio)
    if kind == "sequence-tis":
        return jnp.minimum(jnp.exp(sequence_log_ratio(log_ratio, batch, mean=False)), high)
    ratio = jnp.exp(log_ratio)
    if kind == "tis":
        return jnp.minimum(ratio, high)
    assert kind == "icepop", kind
    return jnp.where((low <= ratio) & (ratio <= high), ratio, 0.0)


def sampler_mask(log_ratio: Array, batch: Batch, kind: str, low: float, high: float) -> Array:
    """1 at the tokens of sequences that are near the sampler, else 0, [B, T], from log(π/μ) of tokens.

    "sequence": the product of the tokens' ratios lies within [low, high]; "geometric": the geometric mean of them does,
    which does not grow with the length (a relative: the off-policy masking of DeepSeek-V3.2, arXiv 2512.02556). Like
    icepop's, these zeros leave the denominator as it is.
    """
    if kind == "none":
        return jnp.ones_like(log_ratio)
    assert kind in ("sequence", "geometric"), kind
    of_sequence = sequence_log_ratio(jax.lax.stop_gradient(log_ratio), batch, mean=kind == "geometric")
    ratio = jnp.exp(of_sequence)
    return ((low <= ratio) & (ratio <= high)).astype(log_ratio.dtype)
