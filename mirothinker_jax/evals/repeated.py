"""Figures of questions that were each answered several times.

Answers to one question are alike, so they are clusters: standard errors follow arXiv 2411.00640. Taken as independent,
8 runs of 103 questions would look twice as certain as they are. `Scores` have the verdicts of each question's answers
in the order of the runs; answers that could not be judged are not in them, and every question counts once.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Iterable, Mapping, Sequence

from mirothinker_jax.evals.statistics import Accuracy, score_interval
from mirothinker_jax.tasks.rules import canonical

Scores = Mapping[Hashable, Sequence[bool]]


def by_question(verdicts: Iterable[tuple[Hashable, bool | None]]) -> dict[Hashable, list[bool]]:
    """The Scores of (question, correct) pairs; what could not be judged, None, is left out."""
    found: dict[Hashable, list[bool]] = {}
    for question, correct in verdicts:
        if correct is not None:
            found.setdefault(question, []).append(bool(correct))
    return found


def accuracy(scores: Scores) -> Accuracy:
    """`mean_score` with its 95% interval, clustered by question; `n` counts the answers.

    The interval is Wilson's for as many independent answers as have that standard error, and never more than there are.
    Where all answers are right, or all wrong, the error is 0 and says nothing, and every question counts as one answer.

    >>> accuracy({"a": [True, False], "b": [True, True]}).mean
    0.75
    """
    mean, error, n = mean_score(scores), clustered_error(scores), sum(map(len, scores.values()))
    questions = sum(map(bool, scores.values()))
    low, high = score_interval(mean, min(n, mean * (1 - mean) / error**2) if error else questions)
    return Accuracy(mean, 0.0 if mean == 0 else low, 1.0 if mean == 1 else high, n)


def mean_score(scores: Scores) -> float:
    """The mean over questions of the share of right ones among a question's answers, 0…1; with all answers judged, that
    is the mean over runs. Raises ValueError where there are none."""
    return _mean([_mean(verdicts) for verdicts in scores.values() if verdicts])


def clustered_error(scores: Scores) -> float | None:
    """Standard error of `mean_score`, clustered by question: s / √n of the questions' means. None for one question."""
    means = [_mean(verdicts) for verdicts in scores.values() if verdicts]
    return statistics.stdev(means) / math.sqrt(len(means)) if len(means) > 1 else None


def naive_error(scores: Scores) -> float:
    """The binomial standard error of `mean_score`, as if all answers were independent: to show what clusters change."""
    mean, n = mean_score(scores), sum(map(len, scores.values()))
    return math.sqrt(mean * (1 - mean) / n)


def spread_over_runs(means: Sequence[float]) -> float | None:
    """Sample standard deviation of the runs' accuracies; None for a single run."""
    return statistics.stdev(means) if len(means) > 1 else None


def pass_at(k: int, n: int, correct: int) -> float:
    """Chance that of `k` answers, drawn from `n` of which `correct` are right, at least one is right; unbiased
    (arXiv 2107.03374).

    >>> round(pass_at(4, 8, 2), 3)
    0.786
    """
    if not 0 <= correct <= n or not 1 <= k <= n:
        raise ValueError(f"pass@{k} of {n} answers, {correct} right: give 1 ≤ k ≤ n and 0 ≤ correct ≤ n")
    return 1 - math.comb(n - correct, k) / math.comb(n, k)


def mean_pass_at(k: int, scores: Scores) -> float | None:
    """Mean of `pass_at` over the questions that have `k` answers; None where none has."""
    found = [pass_at(k, len(v), sum(v)) for v in scores.values() if len(v) >= k]
    return _mean(found) if found else None


def majority(answers: Sequence[str | None]) -> int | None:
    """The place of the first answer of those that were given most often, however they are written; the earliest wins a
    tie, and what is no answer does not vote. None where there is none.

    >>> majority(["Oslo", None, "1,000", "oslo.", "1000"]), majority([None])
    (0, None)
    """
    votes: dict[Hashable, list[int]] = {}
    for place, answer in enumerate(answers):
        if answer is not None and answer.strip():
            votes.setdefault(canonical(answer), []).append(place)
    # max() keeps the first of equals, and a dict the order of what came first.
    return max(votes.values(), key=len)[0] if votes else None


def mean_majority_at(k: int, answers: Mapping[Hashable, Sequence[tuple[str | None, bool]]]) -> float | None:
    """maj@k: mean over questions of how often the majority of `k` answers is right, over each question's stretches of
    `k` answers, one after another; an empty majority is wrong. None where no question has `k` answers.

    Args:
      answers: by question, (answer, correct) in the order of the runs.
    """
    means = []
    for found in answers.values():
        stretches = [found[i : i + k] for i in range(0, len(found) - k + 1, k)]
        places = [majority([answer for answer, _ in stretch]) for stretch in stretches]
        right = [p is not None and stretch[p][1] for p, stretch in zip(places, stretches, strict=True)]
        means += [_mean(right)] if right else []
    return _mean(means) if means else None


def _mean(values: Sequence[float]) -> float:
    if not values:
        raise ValueError("no answers; give at least one")
    return math.fsum(values) / len(values)
