"""Direct preference optimisation (arXiv 2305.18290, eq. 7) on trajectory log-probs, and its common relatives.

`batch.sequence` tells the chosen (even) from the rejected (odd) branch of each pair; a pair lies within
one row. The optional SFT term is the chosen branch's mean negative log-likelihood per token, averaged over
pairs (as in arXiv 2404.19733), so that one denominator, the number of pairs, normalises both.

With Δ the chosen sequence's log π − log ref less the rejected one's, a pair's loss is

    sigmoid    −(1 − ε)·log σ(β·Δ) − ε·log σ(−β·Δ)   DPO; with ε, labels are taken to be swapped that often
                                                     (Mitchell's conservative DPO; arXiv 2403.00409)
    ipo        (Δ − 1/(2β))²                         IPO (arXiv 2310.12036, eq. 17, where β is called τ)
    hinge      max(0, 1 − β·Δ)                       SLiC as RSO has it (arXiv 2309.06657)

Log-probs of a sequence are summed, or averaged over its trained tokens (`length_normalised`: Tülu 3, arXiv 2411.15124),
so that a longer trajectory does not weigh more.

Margins are not bounded. A long trajectory's sum of log-ratios is rightly large, and −log σ needs no exponential of it:
it is finite, with a gradient within ±β, for every finite margin. Bounding each token's log-ratio would take the
gradient from tokens of the rejected sequence that the policy already avoids.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from mirothinker_jax.config import DPOConfig
from mirothinker_jax.objectives.sequences import sequence_sums
from mirothinker_jax.objectives.tokens import select_trained, token_mean
from mirothinker_jax.types import Array, Batch, LossOutput, Objective


def preference_loss(delta: Array, config: DPOConfig) -> Array:
    """The table's loss of differences Δ, in nats, any shape."""
    margin, smoothing = config.beta * delta, config.label_smoothing
    if config.loss == "ipo":
        return jnp.square(delta - 0.5 / config.beta)
    if config.loss == "hinge":
        return jnp.maximum(0.0, 1.0 - margin)
    assert config.loss == "sigmoid", config.loss
    right = -jax.nn.log_sigmoid(margin)
    return right if smoothing == 0 else (1 - smoothing) * right - smoothing * jax.nn.log_sigmoid(-margin)


def make_dpo(config: DPOConfig) -> Objective:
    """The objective that `config` describes: preference_loss + sft_coef · NLL(chosen)/tokens, summed over pairs."""
    beta = config.beta

    def dpo(logprobs: Array, entropy: Array, batch: Batch) -> LossOutput:
        logprobs, entropy, reference = select_trained(batch, logprobs, entropy, batch.ref_logprobs)

        def per_pair(values) -> tuple[Any, ...]:
            sums = sequence_sums(values * batch.weights, batch.sequence, 2 * config.pairs_per_row)
            return sums[:, 0::2], sums[:, 1::2]

        chosen, rejected = per_pair(logprobs - reference)
        chosen_tokens, rejected_tokens = per_pair(jnp.ones_like(logprobs))
        present = ((chosen_tokens > 0) & (rejected_tokens > 0)).astype(logprobs.dtype)
        if config.length_normalised:
            chosen = chosen / jnp.maximum(chosen_tokens, 1.0)
            rejected = rejected / jnp.maximum(rejected_tokens, 1.0)
        delta = chosen - rejected
        nll = -per_pair(logprobs)[0] / jnp.maximum(chosen_tokens, 1.0)
        pairs = present.sum()
        mean = lambda x: ((x * present).sum(), pairs)  # noqa: E731
        metrics = {
            "margin": mean(beta * delta),
            "preference_accuracy": mean((delta > 0).astype(logprobs.dtype)),
            "chosen_reward": mean(beta * chosen),
            "rejected_reward": mean(beta * rejected),
            "chosen_nll": mean(nll),
            "entropy": token_mean(entropy, batch),
        }
        total = ((config.sft_coef * nll + preference_loss(delta, config)) * present).sum()
        return LossOutput(total, metrics)

    return dpo
