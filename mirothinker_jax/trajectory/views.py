"""Trajectories as what training reads: samples of tokens, each sampled token trained exactly once."""

from __future__ import annotations

import numpy as np

from mirothinker_jax.data.packing import Pair, Sample, Tree, TreePair
from mirothinker_jax.trajectory.tree import trees
from mirothinker_jax.trajectory.types import Segment, Source, Trajectory

ANY_LENGTH = 1 << 40  # tokens of a row that holds any episode


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


def preference_pair(chosen: Trajectory, rejected: Trajectory) -> Pair | TreePair:
    """Two episodes of one question: branches of their shared prompt, or trees where a context was edited.

    Trained are the turns of the conversation as it stood at the end. Turns that were taken back, and attempts that
    were given up, earned neither answer.

    Raises ValueError if the questions differ.
    """
    if chosen.question_id != rejected.question_id:
        raise ValueError(
            f"episodes {chosen.id} and {rejected.id} are of questions {chosen.question_id} and {rejected.question_id}; "
            "pair within a question"
        )
    (first, *_), (other, *_) = both = [_trees_of_end(t) for t in (chosen, rejected)]
    prompt = len(chosen.segments[chosen.turns[-1].context[0]].tokens)
    plain = all(len(trees) == 1 and not trees[0].branches for trees in both)
    if plain and np.array_equal(first.trunk.tokens[:prompt], other.trunk.tokens[:prompt]):
        continuations = [Sample(t.trunk.tokens[prompt:], t.trunk.trained[prompt:]) for t in (first, other)]
        return Pair(first.trunk.tokens[:prompt], *continuations)
    return TreePair(*map(tuple, both))


def _trees_of_end(trajectory: Trajectory) -> list[Tree]:
    last = trajectory.turns[-1]
    shown = {*last.context, last.segment}
    turns = [turn for turn in trajectory.turns if turn.segment in shown]
    return trees(trajectory.segments, turns, ANY_LENGTH, advantage=0.0)
