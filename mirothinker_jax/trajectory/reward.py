"""Reward of an episode: R = α_c · correct − α_f · format violation (MiroThinker, arXiv 2511.11793, §RL)."""

from __future__ import annotations

import dataclasses
from mirothinker_jax.trajectory.types import Stop, Trajectory


def violates_format(trajectory: Trajectory) -> bool:
    """A call that could not be parsed, or an end without a boxed answer that is the policy's own fault."""
    return trajectory.malformed_calls > 0 or trajectory.stop in (Stop.NO_ANSWER, Stop.LENGTH, Stop.CONTEXT)


def with_reward(trajectory: Trajectory, correct_coef: float = 1.0, format_coef: float = 0.0) -> Trajectory:
    """The trajectory with its reward; 0 for one that was not judged."""
    if trajectory.correct is None:
        return trajectory
    reward = correct_coef * trajectory.correct - format_coef * violates_format(trajectory)
    return dataclasses.replace(trajectory, reward=reward)
