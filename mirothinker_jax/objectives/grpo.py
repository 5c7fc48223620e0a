"""Group-relative policy optimisation: the MiroThinker paper's formula and its common relatives.

Paper (arXiv 2511.11793): maximise A·log π − β·KL(π‖ref), strictly on-policy, A = R − mean of the group; no
ratio, no clip. With r = π/μ, the ratio to what a token was sampled with, and clip(r) between 1 − low and 1 + high, a
token's loss is

    reinforce   −A·log π                          the paper's
    clip        −min(r·A, clip(r)·A)              PPO, with separate bounds (DAPO, arXiv 2503.14476); where A < 0, at
                                                  most −c·A (dual clip, arXiv 1912.09729): far from the sampler, one
                                                  bad token cannot decide the step
    gspo        −min(s·A, clip(s)·A)              s = the geometric mean of r over the sequence (arXiv 2507.18071)
    cispo       −stop(clip(r))·A·log π            every token keeps a gradient (MiniMax-M1, arXiv 2506.13585, eq. 4)

`ratio_to="start"` parts the two things that the ratio speaks of (decoupled PPO, arXiv 2110.00641): r = π/π_start is
clipped, which is how far the step has moved, and stop(π_start/μ), how far the sampler lags or rounds differently, is a
weight (`sampler_correction`) of its own. A batch takes one update, of all its micro-batches together. So the parameters
are those of the step's start, π_start is stop(π), and no second pass computes it. The ratio is 1 and its bounds never
act; GRPOConfig refuses them.

Left out: a ratio of a whole trajectory where its context was edited and it takes several rows. Each row then has a
ratio of its own (objectives/ratios.py).

No log-prob makes a NaN: what is not trained is zeroed before the formula, and log-ratios are bounded to ±20 nats
before they are exponentiated.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mirothinker_jax.config import GRPOConfig
from mirothinker_jax.objectives.kl import kl_estimate
from mirothinker_jax.objectives.ratios import gspo_log_ratio, sampler_mask, sampler_weights
from mirothinker_jax.objectives.tokens import bounded_log_ratio, select_trained, token_mean, without_value
from mirothinker_jax.types import Array, Batch, LossOutput, Objective


def policy_loss(
    logprobs: Array, advantages: Array, log_ratio: Array, config: GRPOConfig
) -> tuple[Array, Array]:
    """(loss, 1 where the bounds took the gradient), [B, T] each, of the table above; `log_ratio` is log r, or log s."""
    if config.loss == "reinforce":
        return -advantages * logprobs, jnp.zeros_like(log_ratio)
    ratio = jnp.exp(log_ratio)
    bounded = jnp.clip(ratio, 1.0 - config.clip_low, 1.0 + config.clip_high)
    if config.loss == "cispo":
        loss = -jax.lax.stop_gradient(bounded) * advantages * logprobs
        return loss, (bounded != ratio).astype(loss.dtype)
    gain = jnp.minimum(ratio * advantages, bounded * advantages)
    clipped = ratio * advantages > bounded * advantages
    if config.clip_dual > 0:
        floor = config.clip_dual * advantages
        clipped |= (advantages < 0) & (gain < floor)
        gain = jnp.where(advantages < 0, jnp.maximum(gain, floor), gain)
    return -gain, clipped.astype(gain.dtype)


def make_grpo(config: GRPOConfig) -> Objective:
    """The objective that `config` describes. How tokens are averaged is in the batch's weights (data/weights.py)."""
    c = config

    def grpo(logprobs: Array, entropy: Array, batch: Batch) -> LossOutput:
        logprobs, entropy, advantages, sampler, reference = select_trained(
            batch, logprobs, entropy, batch.advantages, batch.sampler_logprobs, batch.ref_logprobs
        )
        to_sampler = bounded_log_ratio(logprobs, sampler)
        moved, behind = to_sampler, to_sampler  # log r, and the log-ratio that is corrected for
        if c.ratio_to == "start":
            moved = without_value(logprobs)
        if c.loss == "gspo":
            moved = gspo_log_ratio(moved, batch)
        losses, clipped = policy_loss(logprobs, advantages, moved, c)
        kept = sampler_mask(behind, batch, c.sampler_mask, c.mask_low, c.mask_high)
        weights = sampler_weights(behind, batch, c.sampler_correction, c.correction_low, c.correction_high)
        losses = losses * weights * kept
        metrics = {
            "logprob_gap": token_mean(jnp.abs(to_sampler), batch),
            "logprob_gap_signed": token_mean(to_sampler, batch),
            "clip_fraction": token_mean(clipped, batch),
            "entropy": token_mean(entropy, batch),
        }
        if c.sampler_mask != "none":
            metrics["mask_fraction"] = token_mean(1.0 - kept, batch)
        if c.kl_coef > 0:
            losses = losses + c.kl_coef * kl_estimate(logprobs, reference, c.kl)
            metrics["kl"] = token_mean(kl_estimate(logprobs, reference, "k3"), batch)
        return LossOutput((losses * batch.weights).sum(), metrics)

    return grpo
