"""The figures of a benchmark, from its episodes.

Of what was judged: what could not be is counted beside, never as wrong. An episode without an answer is wrong. Which
further figures there are, depends on the benchmark: a string scorer beside the judge, calibration, F1.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from mirothinker_jax.evals.benchmarks import open_reference
from mirothinker_jax.evals.calibration import calibration_error, stated_confidence
from mirothinker_jax.evals.catalogue import BENCHMARKS
from mirothinker_jax.evals.repeated import (
    Scores,
    accuracy,
    by_question,
    clustered_error,
    majority,
    mean_majority_at,
    mean_pass_at,
    naive_error,
    spread_over_runs,
)
from mirothinker_jax.tasks.graders import RULES
from mirothinker_jax.tasks.types import Task
from mirothinker_jax.trajectory.types import Source, Stop, Trajectory


def figures(
    name: str, runs: Sequence[Sequence[Trajectory]], input_price: float = 0.0, output_price: float = 0.0
) -> dict[str, Any]:
    """What is measured of the benchmark `name`, as JSON values; shares are in 0…1.

    Args:
      runs: the episodes of each run.
      input_price, output_price: of a million tokens that the policy reads and writes, without caches.
    """
    benchmark = BENCHMARKS[name]
    episodes = [t for run in runs for t in run if t.stop is not Stop.INFRASTRUCTURE]
    judged = [t for t in episodes if t.correct is not None]
    found: dict[str, Any] = {
        "runs": len(runs),
        "episodes": len(episodes),
        "unjudged": len(episodes) - len(judged),
        "broken": sum(map(len, runs)) - len(episodes),
        "stops": dict(sorted(Counter(str(t.stop) for run in runs for t in run).items())),
    }
    if episodes:
        found |= _costs(episodes, input_price, output_price)
    if not benchmark.scored or not judged:
        return found
    found |= _accuracy(
        judged, by_question((t.question_id, t.correct) for t in judged), [_share(run) for run in runs]
    )
    found["accuracy_without_restarts"] = _mean([bool(t.correct) and _attempts(t) == 1 for t in judged])
    if benchmark.string_rule:
        rule = RULES[benchmark.string_rule]
        found["string_accuracy"] = _mean([rule(_reference(t), t.answer) for t in judged])
    terms = _OF_READING.get(benchmark.reading)
    return found | (terms(judged) if terms else {})


def predictions(runs: Sequence[Sequence[Trajectory]]) -> dict[str, str | None]:
    """What most runs answered to each question, by its id; the earliest of what ties. None where no run answered."""
    answers: dict[str, list[str | None]] = {}
    for run in runs:
        for trajectory in run:
            answers.setdefault(trajectory.question_id, []).append(trajectory.answer)
    places = {question: majority(given) for question, given in answers.items()}
    return {q: None if place is None else answers[q][place] for q, place in places.items()}


def _accuracy(
    judged: Sequence[Trajectory], verdicts: Scores, by_run: Sequence[float | None]
) -> dict[str, Any]:
    answers: dict[Hashable, list[tuple[str | None, bool]]] = {}
    for t in judged:
        answers.setdefault(t.question_id, []).append((t.answer, bool(t.correct)))
    whole = accuracy(verdicts)
    most = max(map(len, verdicts.values()))
    ks = sorted({k for k in (1, 2, 4, 8, 16, 32) if k < most} | {most})
    return {
        "questions": len(verdicts),
        "accuracy": whole.mean,
        "standard_error": clustered_error(verdicts),
        "naive_standard_error": naive_error(verdicts),
        "low": whole.low,
        "high": whole.high,
        "by_run": list(by_run),
        "std_over_runs": spread_over_runs([share for share in by_run if share is not None]),
        "avg_at": {str(most): whole.mean},
        "pass_at": {str(k): mean_pass_at(k, verdicts) for k in ks},
        "majority_at": {str(k): mean_majority_at(k, answers) for k in ks if k > 1},
    }


def _costs(episodes: Sequence[Trajectory], input_price: float, output_price: float) -> dict[str, Any]:
    """Means per question asked, every attempt at it included."""
    written = [sum(len(s.tokens) for s in t.segments if s.source is Source.POLICY) for t in episodes]
    read = [sum(len(t.segments[i].tokens) for turn in t.turns for i in turn.context) for t in episodes]
    price = (_mean(read) * input_price + _mean(written) * output_price) / 1e6
    return {
        "calls": _mean([t.calls for t in episodes]),
        "failed_calls": _mean([t.failed_calls for t in episodes]),
        "turns": _mean([len(t.turns) for t in episodes]),
        "attempts": _mean([_attempts(t) for t in episodes]),
        "tokens_written": _mean(written),
        "tokens_read": _mean(read),
        "cost": price if input_price or output_price else None,
    }


def _confidences(judged: Sequence[Trajectory]) -> dict[str, Any]:
    pairs = [(c, bool(t.correct)) for t in judged if (c := _confidence(t)) is not None]
    return {
        "confident_answers": len(pairs),
        "calibration_error": calibration_error(pairs) if pairs else None,
    }


def _confidence(trajectory: Trajectory) -> float | None:
    """What the policy states in its last words, else what the judge read in its answer."""
    said = [m["content"] for m in trajectory.messages() if m["role"] == "assistant"]
    stated = stated_confidence(said[-1]) if said else None
    return trajectory.terms.get("confidence") if stated is None else stated


def _parts(judged: Sequence[Trajectory]) -> dict[str, Any]:
    """`accuracy` is that of fully correct answers; an answer that was not put to the judge has nothing right."""
    return {key: _mean([t.terms.get(key, 0.0) for t in judged]) for key in ("precision", "recall", "f1")}


def _grades(judged: Sequence[Trajectory]) -> dict[str, Any]:
    # What equals the reference was right without asking, so it was attempted.
    attempted = _mean([t.terms.get("attempted", float(bool(t.correct))) for t in judged])
    correct = _mean([bool(t.correct) for t in judged])
    of_attempted = correct / attempted if attempted else 0.0
    return {
        "attempted": attempted,
        "accuracy_of_attempted": of_attempted,
        "f1": 2 * correct * of_attempted / (correct + of_attempted) if correct else 0.0,
        "unparsable": sum(t.terms.get("unparsable", 0.0) > 0 for t in judged),
    }


_OF_READING: dict[str, Callable[[Sequence[Trajectory]], dict[str, Any]]] = {
    "fields": _confidences,
    "parts": _parts,
    "grades": _grades,
}


def _attempts(trajectory: Trajectory) -> int:
    return 1 + max((turn.attempt for turn in trajectory.turns), default=0)


def _reference(trajectory: Trajectory) -> str:
    return open_reference(Task("", "", trajectory.expected, metadata=trajectory.metadata)).answer


def _share(run: Sequence[Trajectory]) -> float | None:
    judged = [bool(t.correct) for t in run if t.correct is not None]
    return _mean(judged) if judged else None


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
