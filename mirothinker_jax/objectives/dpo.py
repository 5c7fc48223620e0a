"""Direct preference optimisation (arXiv 2305.18290, eq. 7) on summed trajectory log-probs.

`batch.sequence` tells the chosen (even) from the rejected (odd) branch of each pair; a pair lies within
one row. The optional SFT term is the chosen branch's mean negative log-likelihood per token, averaged over
pairs (as in arXiv 2404.19733), so that one denominator, the number of pairs, normalises both.

Margins are not bounded. A long trajectory's sum of log-ratios is rightly large, and −log σ needs no exponential of it:
it is finite, with a gradient within ±β, for every finite margin. Bounding each token's log-ratio would take the
gradient from tokens of the rejected sequence that the policy already avoids.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from mirothinker_jax.objectives.tokens import select_trained, token_mean
from mirothinker_jax.types import Array, Batch, LossOutput, Objective


def sequence_sums(values: Array, sequence: Array, count: int) -> Array:
    """Sums of values [B, T] per sequence index: [B, count]. Index −1 belongs to none."""
    member = sequence[..., None] == jnp.arange(count, dtype=sequence.dtype)[None, None]
    return jnp.einsum("bt,btn->bn", values, member.astype(values.dtype))


def make_dpo(beta: float, sft_coef: float, pairs_per_row: int) -> Objective:
    """−log σ(β·[(π_c − ref_c) − (π_r − ref_r)]) + sft_coef · NLL(chosen)/tokens, summed over pairs."""

    def dpo(logprobs: Array, entropy: Array, batch: Batch) -> LossOutput:
        logprobs, entropy, reference = select_trained(batch, logprobs, entropy, batch.ref_logprobs)

        def per_pair(values) -> tuple[Any, ...]:
            sums = sequence_sums(values * batch.weights, batch.sequence, 2 * pairs_per_row)
            return sums[:, 0::2], sums[:, 1::2]

        chosen, rejected = per_pair(logprobs - reference)
        chosen_tokens, rejected_tokens = per_pair(jnp.ones_like(logprobs))
        present = ((chosen_tokens > 0) & (rejected_tokens > 0)).astype(logprobs.dtype)
        margin = beta * (chosen - rejected)
        nll = -per_pair(logprobs)[0] / jnp.maximum(chosen_tokens, 1.0)
        pairs = present.sum()
        mean = lambda x: ((x * present).sum(), pairs)  # noqa: E731
        metrics = {
            "margin": mean(margin),
            "preference_accuracy": mean((margin > 0).astype(logprobs.dtype)),
            "chosen_reward": mean(beta * chosen),
            "rejected_reward": mean(beta * rejected),
            "chosen_nll": mean(nll),
            "entropy": token_mean(entropy, batch),
        }
        total = ((sft_coef * nll - jax.nn.log_sigmoid(margin)) * present).sum()
        return LossOutput(total, metrics)

    return dpo
