"""Reward of an episode: R = α_c · correct − α_f · format violation (MiroThinker, arXiv 2511.11793, §RL).

Other terms are added: the grader gives them by name (`Verdict.terms`), the config their factors (`grpo.reward_terms`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from mirothinker_jax.trajectory.types import Stop, Trajectory


def violates_format(trajectory: Trajectory) -> bool:
    """A call that could not be parsed, or an end without a boxed answer that is the policy's own fault."""
    return trajectory.malformed_calls > 0 or trajectory.stop in (Stop.NO_ANSWER, Stop.LENGTH, Stop.CONTEXT)


def truncated(trajectory: Trajectory) -> bool:
    """Whether a length limit ended it: what it would have come to is not known."""
    return trajectory.stop in (Stop.LENGTH, Stop.CONTEXT)


def with_reward(
    trajectory: Trajectory,
    correct_coef: float = 1.0,
    format_coef: float = 0.0,
    terms: Mapping[str, float] | None = None,
) -> Trajectory:
    """The trajectory with its reward; 0 for one that was not judged. `terms` are the factors of the grader's.

    Raises ValueError for a term that the grader did not give: its factor would silently do nothing.
    """
    if trajectory.correct is None:
        return trajectory
    reward = correct_coef * trajectory.correct - format_coef * violates_format(trajectory)
    for name, factor in (terms or {}).items():
        if name not in trajectory.terms:
            raise ValueError(
                f"grpo.reward_terms names {name!r}, and the grader gave episode {trajectory.id} "
                f"{', '.join(trajectory.terms) or 'no terms'}; take it out, or let the grader give it"
            )
        reward += factor * trajectory.terms[name]
    return dataclasses.replace(trajectory, reward=reward)
