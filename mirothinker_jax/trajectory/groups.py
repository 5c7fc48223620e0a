"""What the episodes of one question give to a GRPO step: the pieces of rows, and what counts without being computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from mirothinker_jax.config import GRPOConfig
from mirothinker_jax.data.packing import Sample, Tree
from mirothinker_jax.data.weights import loss_weights
from mirothinker_jax.trajectory.advantage import group_advantages
from mirothinker_jax.trajectory.reward import truncated
from mirothinker_jax.trajectory.types import Source, Trajectory
from mirothinker_jax.trajectory.views import policy_rows


class GroupRows(NamedTuple):
    """`pieces` are for packing. `left_out` is what episodes that are not computed add to the step's denominator: their
    losses are zeros of the mean all the same. `equal`: all rewards were equal, so there is no policy gradient.
    `dropped` counts the episodes that curation took out."""

    pieces: list[Sample | Tree]
    left_out: float
    equal: bool
    dropped: int


def group_rows(
    group: Sequence[Trajectory],
    config: GRPOConfig,
    keep_equal: bool,
    reason_to_drop: Callable[[Trajectory], str] | None = None,
) -> GroupRows:
    """Of the episodes of one question, with their rewards.

    What failed for reasons outside the policy, was not judged, or never asked the policy for a token says nothing about
    it: it is part of no mean. Nor is an episode that `reason_to_drop` gives a reason for (curation.py). With
    `config.overlong_filter`, one that a length limit ended is part of the group's mean, and adds nothing to the loss
    and its denominator (DAPO, arXiv 2503.14476, §3.4). `keep_equal`: a group of equal rewards is computed, as a KL term
    wants it.
    """
    judged = [t for t in group if t.correct is not None and t.segments]
    usable = [t for t in judged if reason_to_drop is None or not reason_to_drop(t)]
    advantages = group_advantages(np.asarray([t.reward for t in usable]), config.advantage)
    equal = not np.any(advantages)
    pieces, left_out = [], 0.0
    for trajectory, advantage in zip(usable, advantages, strict=True):
        if config.overlong_filter and truncated(trajectory):
            continue
        if equal and not keep_equal:
            tokens = sum(len(s.tokens) for s in trajectory.segments if s.source is Source.POLICY)
            left_out += float(loss_weights(np.ones(tokens, bool), config.aggregate)[1].sum())
        else:
            pieces += policy_rows(trajectory, float(advantage), config.training.sequence_length)
    return GroupRows(pieces, left_out, equal, len(judged) - len(usable))
