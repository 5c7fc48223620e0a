"""Trajectories as what training reads: samples of tokens, each sampled token trained exactly once."""

from __future__ import annotations

import numpy as np

from mirothinker_jax.data.packing import Pair, Sample, Tree
from mirothinker_jax.trajectory.tree import trees
from mirothinker_jax.trajectory.types import Segment, Source, Trajectory


def columns(segments: tuple[Segment, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """tokens int32 [n], trained bool [n], sampler log-probs float32 [n] of the ledger; log-probs are 0 where
    nobody sampled."""
    tokens = np.concatenate([np.asarray(s.tokens, np.int32) for s in segments])
    trained = np.concatenate([np.full(len(s.tokens), s.source is Source.POLICY) for s in segments])
    logprobs = [s.logprobs if s.source is Source.POLICY else np.zeros(len(s.tokens)) for s in segments]
    return tokens, trained, np.concatenate(logprobs).astype(np.float32)


def policy_rows(trajectory: Trajectory, advantage: float, row_tokens: int) -> list[Sample | Tree]:
    """The episode for a policy gradient, in pieces for packing.pack_rows, none longer than a row if that can be.

    One sample for an episode without edits of its context, else trees; however many, they count as one sequence.
    """
    if trajectory.linear:
        return [policy_sample(trajectory, advantage)]
    return [*trees(trajectory.segments, trajectory.turns, row_tokens, advantage)]


def policy_sample(trajectory: Trajectory, advantage: float) -> Sample:
    """The whole episode as one sample for a policy gradient."""
    tokens, trained, logprobs = columns(trajectory.segments)
    advantages = np.where(trained, advantage, 0.0).astype(np.float32)
    routes = trajectory.routes
    if routes is not None:
        unfed = np.full((len(tokens) - len(routes), *routes.shape[1:]), -1, routes.dtype)
        routes = np.concatenate([routes, unfed])
    return Sample(tokens, trained, advantages, logprobs, routes=routes)


def preference_pair(chosen: Trajectory, rejected: Trajectory) -> Pair:
    """Two episodes of one question as branches of their shared prompt.

    Raises ValueError if the prompts differ.
    """
    first, other = chosen.segments[0], rejected.segments[0]
    if first.source is not Source.PROMPT or first.tokens != other.tokens:
        raise ValueError(
            f"episodes {chosen.id} and {rejected.id} do not share a prompt; pair within a question"
        )

    def branch(trajectory: Trajectory) -> Sample:
        tokens, trained, _ = columns(trajectory.segments[1:])
        return Sample(tokens, trained)

    return Pair(np.asarray(first.tokens, np.int32), branch(chosen), branch(rejected))
