"""Supervised fine-tuning: the mean negative log-likelihood of the trained tokens."""

from __future__ import annotations

from mirothinker_jax.types import Array, Batch, LossOutput


def sft(logprobs: Array, entropy: Array, batch: Batch) -> LossOutput:
    """−Σ w·log p over Σ w, in nats. All arrays float32 [B, T]."""
    weights = batch.weights
    count = weights.sum()
    metrics = {"entropy": ((entropy * weights).sum(), count)}
    return LossOutput(-(logprobs * weights).sum(), count, metrics)
