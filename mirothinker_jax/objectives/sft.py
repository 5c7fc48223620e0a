"""Supervised fine-tuning: the negative log-likelihood of the trained tokens."""

from __future__ import annotations

from mirothinker_jax.objectives.tokens import select_trained, token_mean
from mirothinker_jax.types import Array, Batch, LossOutput


def sft(logprobs: Array, entropy: Array, batch: Batch) -> LossOutput:
    """−Σ w·log p, in nats. All arrays float32 [B, T]."""
    logprobs, entropy = select_trained(batch, logprobs, entropy)
    return LossOutput(-(logprobs * batch.weights).sum(), {"entropy": token_mean(entropy, batch)})
