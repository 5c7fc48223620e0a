"""Questions asked several times: which episodes that takes, and what is measured on them.

Every figure is of the episodes alone, in the order of the questions, and none of the time they took. So an evaluation
that was killed, and went on from its journal, gives the figures of one that never was.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mirothinker_jax.evals.repeated import accuracy, by_question
from mirothinker_jax.evals.statistics import Accuracy
from mirothinker_jax.rollout.collect import EpisodeSpec
from mirothinker_jax.tasks.types import Task
from mirothinker_jax.trajectory.types import Source, Stop, Trajectory


def question_specs(tasks: Sequence[Task], runs: int, seed: int) -> list[EpisodeSpec]:
    """`runs` episodes of every task, run after run, so that what is there first is a whole run.

    An episode's seed, its id, and the noise that it meets on the embedded web depend on its task and its run alone:
    more tasks or more runs change none of those that were there.
    """
    return [
        EpisodeSpec(f"eval/{task.id}#{run}", task, _seed(seed, task.id, run))
        for run in range(runs)
        for task in tasks
    ]


def _seed(seed: int, task: str, run: int) -> int:
    number = int.from_bytes(hashlib.sha256(task.encode("utf-8", "surrogatepass")).digest()[:8])
    return int(np.random.default_rng((seed, number, run)).integers(2**31))


@dataclass(frozen=True)
class Measured:
    """What was measured. The means are over the episodes that were judged.

    Attributes:
      accuracy: clustered by question (repeated.accuracy); None where nothing was judged.
      by_run: the share of right ones of each run, None for one of which nothing was judged.
      unjudged: episodes that ended, and that the grader could not judge; they count nowhere else.
      broken: episodes that services broke; neither.
      sampled: mean of what the policy wrote, in `unit`.
      stops: episodes by why they ended.
    """

    accuracy: Accuracy | None
    by_run: tuple[float | None, ...]
    questions: int
    runs: int
    unjudged: int
    broken: int
    calls: float
    failed_calls: float
    turns: float
    sampled: float
    unit: str
    stops: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """As summary.json has it."""
        return dataclasses.asdict(self)


def measure(trajectories: Sequence[Trajectory], runs: int, unit: str) -> Measured:
    """The figures of the episodes of `question_specs`, in its order. `unit` is what the policy's tokens are."""
    questions = len(trajectories) // runs
    judged = [t for t in trajectories if t.correct is not None]
    broken = sum(t.stop is Stop.INFRASTRUCTURE for t in trajectories)
    by_run = [trajectories[run * questions : (run + 1) * questions] for run in range(runs)]
    return Measured(
        accuracy=accuracy(by_question((t.question_id, t.correct) for t in judged)) if judged else None,
        by_run=tuple(_share(group) for group in by_run),
        questions=questions,
        runs=runs,
        unjudged=len(trajectories) - len(judged) - broken,
        broken=broken,
        calls=_mean([t.calls for t in judged]),
        failed_calls=_mean([t.failed_calls for t in judged]),
        turns=_mean([len(t.turns) for t in judged]),
        sampled=_mean([_sampled(t) for t in judged]),
        unit=unit,
        stops=dict(sorted(Counter(str(t.stop) for t in trajectories).items())),
    )


def table(measured: Measured) -> str:
    """The figures for people, a line each."""
    m = measured
    runs = ", ".join("–" if share is None else f"{share:.3f}" for share in m.by_run)
    left_out = {"could not be judged": m.unjudged, "broken by services": m.broken}
    rows = [
        ("accuracy", "nothing was judged"),
        ("episodes", f"{m.questions} questions × {m.runs}"),
        ("left out", ", ".join(f"{n} {why}" for why, n in left_out.items() if n) or "none"),
        ("calls", f"{m.calls:.1f} an episode, {m.failed_calls:.1f} of them failed"),
        ("written", f"{m.sampled:,.0f} {m.unit} an episode, in {m.turns:.1f} turns"),
        ("ended", ", ".join(f"{stop} {n}" for stop, n in m.stops.items())),
    ]
    if a := m.accuracy:
        rows[0] = ("accuracy", f"{a.mean:.3f}  [{a.low:.3f}, {a.high:.3f}], n = {a.n}")
    if m.runs > 1:
        rows.insert(1, ("by run", runs))
    return "".join(f"{name:<10}{value}\n" for name, value in rows)


def _share(trajectories: Sequence[Trajectory]) -> float | None:
    judged = [bool(t.correct) for t in trajectories if t.correct is not None]
    return _mean(judged) if judged else None


def _sampled(trajectory: Trajectory) -> int:
    return sum(len(s.tokens) for s in trajectory.segments if s.source is Source.POLICY)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0
