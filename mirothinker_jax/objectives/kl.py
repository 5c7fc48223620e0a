"""Estimates of KL(π‖ref) from samples of π, and which of them may stand in a loss.

That is not a matter of taste: differentiated on-policy, k1 = log π − log ref has an expected gradient of ZERO, and
plain k3 gives the gradient of KL(ref‖π). k2 = ½(log π − log ref)², and k3 times the ratio π/stop(π), give that of
KL(π‖ref). Only the last two can be chosen.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mirothinker_jax.objectives.tokens import bounded_log_ratio, without_value
from mirothinker_jax.types import Array


def kl_estimate(logprobs: Array, ref_logprobs: Array, kind: str) -> Array:
    """Per-token estimate of KL(π‖ref) from samples of π (Schulman's k1, k2, k3), shape of `logprobs`.

    The log-ratio is bounded to ±20 nats in value alone: a token that has gone further is still pulled back. "k3-ratio"
    is k3 times π/stop_gradient(π): the value of k3 with the right gradient as a loss, which is the log-ratio. It is
    formed as that: in the product's own gradient it is what is left of two exponentials.
    """
    bounded = bounded_log_ratio(jax.lax.stop_gradient(logprobs), ref_logprobs)
    delta = bounded + without_value(logprobs)
    if kind == "k1":
        return delta
    k2 = 0.5 * delta * delta
    if kind == "k2":
        return k2
    k3 = jnp.exp(-delta) - 1.0 + delta
    if kind == "k3":
        return k3
    assert kind == "k3-ratio", kind
    return jax.lax.stop_gradient(k3) + without_value(k2)
