"""Held-out accuracy against the number of tool calls allowed: the interaction-scaling measurement."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np

from mirothinker_jax.evals.statistics import Accuracy, accuracy_by
from mirothinker_jax.rollout.collect import EpisodeSpec
from mirothinker_jax.tasks.types import Task
from mirothinker_jax.trajectory.types import Trajectory


def budget_specs(stage: str, tasks: Sequence[Task], budgets: Sequence[int], seed: int) -> list[EpisodeSpec]:
    """One fresh episode per question and budget of calls.

    The same questions, sampling seeds and noise of the embedded web (which looks at what follows the slash of an
    episode's id) for every stage and budget, so that lines differ by policy alone.
    """
    specs = []
    for budget in budgets:
        for task in tasks:
            number = int.from_bytes(hashlib.sha256(task.id.encode()).digest()[:4])
            episode_seed = int(np.random.default_rng((seed, number)).integers(2**31))
            specs.append(EpisodeSpec(f"{stage}-{budget}/{task.id}", task, episode_seed, budget))
    return specs


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What was measured after a stage; all but `scaling` is at the largest budget."""

    accuracy: Accuracy
    scaling: dict[int, Accuracy]
    by_hops: dict[int, Accuracy]
    stops: dict[str, int]  # episodes by why they ended
    calls: float  # mean per episode


def assess(trajectories: Sequence[Trajectory]) -> Evaluation:
    """Accuracies with 95% intervals, of the episodes that were judged."""
    budget = lambda t: int(t.metrics["max_calls"])  # noqa: E731
    judged = [t for t in trajectories if t.correct is not None]
    curve = accuracy_by((budget(t), bool(t.correct)) for t in judged)
    most = max(curve)
    free = [t for t in judged if budget(t) == most]
    return Evaluation(
        accuracy=curve[most],
        scaling=curve,
        by_hops=accuracy_by((int(t.metadata.get("hops", 0)), bool(t.correct)) for t in free),
        stops=dict(Counter(str(t.stop) for t in trajectories if budget(t) == most)),
        calls=float(np.mean([t.calls for t in free])),
    )
