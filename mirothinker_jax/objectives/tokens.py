"""What every objective does to the tokens of a batch before and after its formula."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mirothinker_jax.types import Array, Batch

LOG_RATIO_BOUND = 20.0  # nats; e²⁰ is 4.9·10⁸, far from float32's end even when squared and added up


def select_trained(batch: Batch, *values: Array) -> tuple[Array, ...]:
    """The values, [B, T] each, with zeros where nothing is trained.

    To multiply by a weight of 0 is not enough: 0 · inf and 0 · NaN are NaN, in the loss and in its gradient.
    """
    return tuple(jnp.where(batch.weights > 0, value, 0.0) for value in values)


def token_mean(values: Array, batch: Batch) -> tuple[Array, Array]:
    """A metric's (sum, weight) of values [B, T]: its mean over trained tokens, whatever their losses count for."""
    trained = (batch.weights > 0).astype(values.dtype)
    return (values * trained).sum(), trained.sum()


def bounded_log_ratio(logprobs: Array, others: Array) -> Array:
    """log(π/other) of the same tokens, within ±20 nats. Beyond the bound there is no gradient, as for a ratio that is
    clipped."""
    return jnp.clip(logprobs - others, -LOG_RATIO_BOUND, LOG_RATIO_BOUND)


def without_value(x: Array) -> Array:
    """Zero, with the gradient of x."""
    return x - jax.lax.stop_gradient(x)
