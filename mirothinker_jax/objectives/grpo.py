"""Group-relative policy optimisation: the MiroThinker paper's formula and its common relatives.

Paper (arXiv 2511.11793): maximise A·log π − β·KL(π‖ref), strictly on-policy, A = R − mean of the group; no
ratio, no clip. `loss="clip"` is PPO's clipped ratio against the sampler's log-probs, with separate bounds
(DAPO, arXiv 2503.14476).

Which KL estimator may stand in a loss is not a matter of taste: differentiated on-policy, k1 = log π − log ref
has an expected gradient of ZERO, and plain k3 gives the gradient of KL(ref‖π). k2 = ½(log π − log ref)², and
k3 times the ratio π/stop(π), give that of KL(π‖ref). Only the last two can be chosen.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mirothinker_jax.config import GRPOConfig
from mirothinker_jax.types import Array, Batch, LossOutput, Objective


def kl_estimate(logprobs: Array, ref_logprobs: Array, kind: str) -> Array:
    """Per-token estimate of KL(π‖ref) from samples of π (Schulman's k1, k2, k3), shape of `logprobs`.

    "k3-ratio" is k3 times π/stop_gradient(π): the same value, the right gradient as a loss.
    """
    delta = logprobs - ref_logprobs
    if kind == "k1":
        return delta
    if kind == "k2":
        return 0.5 * delta * delta
    k3 = jnp.exp(-delta) - 1.0 + delta
    if kind == "k3":
        return k3
    assert kind == "k3-ratio", kind
    return k3 * jnp.exp(logprobs - jax.lax.stop_gradient(logprobs))


def sampler_weights(logprobs: Array, sampler_logprobs: Array, kind: str, low: float, high: float) -> Array:
    """Importance weights π/μ for the difference between trainer and sampler, no gradient.

    "tis" truncates them at `high` (arXiv 2508.03680-style); "icepop" zeroes those outside [low, high] and
    leaves the denominator of the loss as it is.
    """
    if kind == "none":
        return jnp.ones_like(logprobs)
    ratio = jnp.exp(jax.lax.stop_gradient(logprobs) - sampler_logprobs)
    if kind == "tis":
        return jnp.minimum(ratio, high)
    assert kind == "icepop", kind
    return jnp.where((low <= ratio) & (ratio <= high), ratio, 0.0)


def aggregate(losses: Array, weights: Array, sequence: Array, how: str) -> tuple[Array, Array]:
    """(sum, weight) of per-token losses [B, T]; a weight of 0 means: not divided at all.

    token-mean: over trained tokens. seq-mean-token-sum and seq-mean-token-mean: over sequences with a
    trained token, of each one's sum or mean. token-sum: the plain sum.
    """
    weighted = losses * weights
    if how == "token-sum":
        return weighted.sum(), jnp.zeros((), losses.dtype)
    if how == "token-mean":
        return weighted.sum(), weights.sum()
    # `sequence` counts from 0 within a row and a sequence has at least one token: T slots suffice.
    per_row = jax.vmap(lambda v, s: jax.ops.segment_sum(v, s, num_segments=v.shape[0]))
    slots = jnp.where(sequence < 0, sequence.shape[1], sequence)  # out of range: dropped
    tokens = per_row(weights, slots)
    present = (tokens > 0).astype(losses.dtype)
    sums = per_row(weighted, slots)
    if how == "seq-mean-token-mean":
        sums = sums / jnp.maximum(tokens, 1.0)
    else:
        assert how == "seq-mean-token-sum", how
    return (sums * present).sum(), present.sum()


def make_grpo(config: GRPOConfig) -> Objective:
    c = config

    def grpo(logprobs: Array, entropy: Array, batch: Batch) -> LossOutput:
        gap = jax.lax.stop_gradient(logprobs) - batch.sampler_logprobs
        if c.loss == "reinforce":
            policy = -batch.advantages * logprobs
            clipped = jnp.zeros_like(gap)
        else:
            ratio = jnp.exp(logprobs - batch.sampler_logprobs)
            bounded = jnp.clip(ratio, 1.0 - c.clip_low, 1.0 + c.clip_high)
            policy = -jnp.minimum(ratio * batch.advantages, bounded * batch.advantages)
            clipped = (ratio * batch.advantages > bounded * batch.advantages).astype(gap.dtype)
        correction = sampler_weights(
            logprobs, batch.sampler_logprobs, c.sampler_correction, c.correction_low, c.correction_high
        )
        losses = policy * correction
        weights = batch.weights
        mean = lambda x: ((x * weights).sum(), weights.sum())  # noqa: E731
        metrics = {
            "logprob_gap": mean(jnp.abs(gap)),
            "logprob_gap_signed": mean(gap),
            "clip_fraction": mean(clipped),
            "entropy": mean(entropy),
        }
        if c.kl_coef > 0:
            losses = losses + c.kl_coef * kl_estimate(logprobs, batch.ref_logprobs, c.kl)
            metrics["kl"] = mean(kl_estimate(logprobs, batch.ref_logprobs, "k3"))
        return LossOutput(*aggregate(losses, weights, batch.sequence, c.aggregate), metrics)

    return grpo
