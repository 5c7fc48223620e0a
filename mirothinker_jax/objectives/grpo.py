"""Group-relative policy optimisation: the MiroThinker paper's formula and its common relatives.

Paper (arXiv 2511.11793): maximise A·log π − β·KL(π‖ref), strictly on-policy, A = R − mean of the group; no
ratio, no clip. `loss="clip"` is PPO's clipped ratio against the sampler's log-probs, with separate bounds
(DAPO, arXiv 2503.14476).

Which KL estimator may stand in a loss is not a matter of taste: differentiated on-policy, k1 = log π − log ref
has an expected gradient of ZERO, and plain k3 gives the gradient of KL(ref‖π). k2 = ½(log π − log ref)², and
k3 times the ratio π/stop(π), give that of KL(π‖ref). Only the last two can be chosen.

No log-prob makes a NaN: what is not trained is zeroed before the formula, and log-ratios are bounded to ±20 nats
before they are exponentiated.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mirothinker_jax.config import GRPOConfig
from mirothinker_jax.objectives.tokens import bounded_log_ratio, select_trained, token_mean
from mirothinker_jax.types import Array, Batch, LossOutput, Objective


def kl_estimate(logprobs: Array, ref_logprobs: Array, kind: str) -> Array:
    """Per-token estimate of KL(π‖ref) from samples of π (Schulman's k1, k2, k3), shape of `logprobs`.

    The log-ratio is bounded to ±20 nats in value alone: a token that has gone further is still pulled back. "k3-ratio"
    is k3 times π/stop_gradient(π): the value of k3 with the right gradient as a loss, which is the log-ratio. It is
    formed as that: in the product's own gradient it is what is left of two exponentials.
    """
    bounded = bounded_log_ratio(jax.lax.stop_gradient(logprobs), ref_logprobs)
    delta = bounded + _without_value(logprobs)
    if kind == "k1":
        return delta
    k2 = 0.5 * delta * delta
    if kind == "k2":
        return k2
    k3 = jnp.exp(-delta) - 1.0 + delta
    if kind == "k3":
        return k3
    assert kind == "k3-ratio", kind
    return jax.lax.stop_gradient(k3) + _without_value(k2)


def _without_value(x: Array) -> Array:
    """Zero, with the gradient of x."""
    return x - jax.lax.stop_gradient(x)


def sampler_weights(logprobs: Array, sampler_logprobs: Array, kind: str, low: float, high: float) -> Array:
    """Importance weights π/μ for the difference between trainer and sampler, no gradient.

    "tis" truncates them at `high` (arXiv 2508.03680-style); "icepop" zeroes those outside [low, high] and
    leaves the denominator of the loss as it is.
    """
    if kind == "none":
        return jnp.ones_like(logprobs)
    ratio = jnp.exp(bounded_log_ratio(jax.lax.stop_gradient(logprobs), sampler_logprobs))
    if kind == "tis":
        return jnp.minimum(ratio, high)
    assert kind == "icepop", kind
    return jnp.where((low <= ratio) & (ratio <= high), ratio, 0.0)


def make_grpo(config: GRPOConfig) -> Objective:
    """The objective that `config` describes. How tokens are averaged is in the batch's weights (data/weights.py)."""
    c = config

    def grpo(logprobs: Array, entropy: Array, batch: Batch) -> LossOutput:
        logprobs, entropy, advantages, sampler, reference = select_trained(
            batch, logprobs, entropy, batch.advantages, batch.sampler_logprobs, batch.ref_logprobs
        )
        log_ratio = bounded_log_ratio(logprobs, sampler)
        if c.loss == "reinforce":
            policy = -advantages * logprobs
            clipped = jnp.zeros_like(log_ratio)
        else:
            ratio = jnp.exp(log_ratio)
            bounded = jnp.clip(ratio, 1.0 - c.clip_low, 1.0 + c.clip_high)
            policy = -jnp.minimum(ratio * advantages, bounded * advantages)
            clipped = (ratio * advantages > bounded * advantages).astype(log_ratio.dtype)
        correction = sampler_weights(
            logprobs, sampler, c.sampler_correction, c.correction_low, c.correction_high
        )
        losses = policy * correction
        metrics = {
            "logprob_gap": token_mean(jnp.abs(log_ratio), batch),
            "logprob_gap_signed": token_mean(log_ratio, batch),
            "clip_fraction": token_mean(clipped, batch),
            "entropy": token_mean(entropy, batch),
        }
        if c.kl_coef > 0:
            losses = losses + c.kl_coef * kl_estimate(logprobs, reference, c.kl)
            metrics["kl"] = token_mean(kl_estimate(logprobs, reference, "k3"), batch)
        return LossOutput((losses * batch.weights).sum(), metrics)

    return grpo
