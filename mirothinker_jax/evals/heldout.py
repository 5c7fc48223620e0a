"""Held-out accuracy against the number of tool calls allowed: the interaction-scaling measurement."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from mirothinker_jax.agent.episode import Task
from mirothinker_jax.config import EvalConfig
from mirothinker_jax.evals.statistics import Accuracy, accuracy_by
from mirothinker_jax.models.qwen import Params
from mirothinker_jax.rollout.collect import Collector, EpisodeSpec
from mirothinker_jax.rollout.sampling import Sampling
from mirothinker_jax.trajectory.reward import Grade, with_reward
from mirothinker_jax.trajectory.types import Trajectory


def evaluate(
    stage: str,
    params: Params,
    tasks: Sequence[Task],
    collector: Collector,
    grade: Grade,
    settings: EvalConfig,
    seed: int,
    bar: Any,
) -> list[Trajectory]:
    """One fresh episode per question and budget; its budget is kept as the figure `max_calls`.

    The same questions, sampling seeds and noise of the embedded web (which looks at what follows the slash of an
    episode's id) for every stage and budget, so that lines differ by policy alone.
    """
    episodes = []
    for budget in settings.budgets:
        for task in tasks:
            number = int.from_bytes(hashlib.sha256(task.id.encode()).digest()[:4])
            episode_seed = int(np.random.default_rng((seed, number)).integers(2**31))
            episodes.append(EpisodeSpec(f"{stage}-{budget}/{task.id}", task, episode_seed, budget))
    sampling = Sampling(settings.temperature, settings.top_p)
    trajectories, _ = collector.run(params, episodes, sampling, bar)
    return [
        dataclasses.replace(with_reward(t, grade), metrics={"max_calls": e.max_calls})
        for t, e in zip(trajectories, episodes, strict=True)
    ]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What was measured after a stage; all but `scaling` is at the largest budget."""

    accuracy: Accuracy
    scaling: dict[int, Accuracy]
    by_hops: dict[int, Accuracy]
    stops: dict[str, int]  # episodes by why they ended
    calls: float  # mean per episode


def assess(trajectories: Sequence[Trajectory]) -> Evaluation:
    """Accuracies with 95% intervals. Episodes that the infrastructure broke count as wrong here."""
    budget = lambda t: int(t.metrics["max_calls"])  # noqa: E731
    curve = accuracy_by((budget(t), t.correct) for t in trajectories)
    most = max(curve)
    free = [t for t in trajectories if budget(t) == most]
    return Evaluation(
        accuracy=curve[most],
        scaling=curve,
        by_hops=accuracy_by((t.hops, t.correct) for t in free),
        stops=dict(Counter(str(t.stop) for t in free)),
        calls=float(np.mean([t.calls for t in free])),
    )
