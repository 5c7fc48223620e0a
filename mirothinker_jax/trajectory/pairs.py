"""Preference pairs from sampled episodes: correct against wrong, nothing else is ranked.

The rejected episode must still end in a valid answer (MiroThinker v0.1's rule), so that the pair teaches
what to answer, not merely to answer. One that was not judged (the infrastructure broke it, or the grader) is neither.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable

from mirothinker_jax.trajectory.reward import violates_format
from mirothinker_jax.trajectory.types import Trajectory


def make_pairs(
    trajectories: Iterable[Trajectory], per_question: int, seed: int
) -> list[tuple[Trajectory, Trajectory]]:
    """(chosen, rejected) pairs, at most `per_question` each, every episode in at most one pair.

    Deterministic for a seed, whatever the order in which the episodes came in.
    """
    by_question: dict[str, list[Trajectory]] = defaultdict(list)
    for trajectory in sorted(trajectories, key=lambda t: t.id):
        if trajectory.correct is not None and not violates_format(trajectory):
            by_question[trajectory.question_id].append(trajectory)
    rng, pairs = random.Random(seed), []
    for question in sorted(by_question):
        group = by_question[question]
        chosen = [t for t in group if t.correct]
        rejected = [t for t in group if not t.correct and t.answer is not None]
        rng.shuffle(chosen)
        rng.shuffle(rejected)
        pairs += list(zip(chosen, rejected, strict=False))[:per_question]
    rng.shuffle(pairs)
    return pairs
