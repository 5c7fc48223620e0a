"""Shares of right answers, with intervals that hold for small samples and at 0 and 1.

Every interval is a 95% one. Those of `wilson` take the answers as independent: several attempts at the same question,
or questions that share an entity, make them too narrow; `of_questions` is for several attempts.
The difference is that of two independent samples; on the same questions (two stages of one run) it is wider than a
paired interval would be, so it errs on the side of "not shown".
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import TypeVar

K = TypeVar("K", bound=Hashable)

_Z = 1.959963984540054  # the 97.5% point of the normal distribution


@dataclass(frozen=True)
class Accuracy:
    """A share of `n` answers with its 95% interval, all in 0…1."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Difference:
    """A share minus another one, with its 95% interval, all in −1…1."""

    mean: float
    low: float
    high: float


def wilson(correct: int, n: int) -> Accuracy:
    """The share correct/n with Wilson's score interval (J. Am. Stat. Assoc. 22, 1927, p. 209).

    >>> wilson(0, 10)
    Accuracy(mean=0.0, low=0.0, high=0.2775327998628892, n=10)
    """
    if not 0 <= correct <= n or n < 1:
        raise ValueError(f"{correct} correct of {n}: give at least one answer, and 0 ≤ correct ≤ n")
    low, high = _score_interval(correct / n, n)
    # At the ends the bound is exactly 0 or 1; rounding would miss it by 1e-17.
    return Accuracy(correct / n, 0.0 if correct == 0 else low, 1.0 if correct == n else high, n)


def of_questions(answers: Iterable[tuple[Hashable, bool]]) -> Accuracy:
    """The mean over questions of the share of right ones among a question's answers; `n` counts the answers.

    Answers to one question are alike, so the interval is that of clusters: Wilson's for as many independent answers as
    have the variance of the questions' means, and never more than there are. Where all answers are right, or all
    wrong, that variance is 0 and says nothing, and every question counts as one answer.

    >>> of_questions([("a", True), ("a", False), ("b", True), ("b", True)]).mean
    0.75
    """
    by_question: dict[Hashable, list[bool]] = {}
    for question, correct in answers:
        by_question.setdefault(question, []).append(correct)
    n, count = sum(map(len, by_question.values())), len(by_question)
    if not n:
        raise ValueError("no answers; give at least one")
    means = [sum(found) / len(found) for found in by_question.values()]
    mean = math.fsum(means) / count
    variance = math.fsum((m - mean) ** 2 for m in means) / (count * max(count - 1, 1))
    independent = min(n, mean * (1 - mean) / variance) if variance > 0 else count
    low, high = _score_interval(mean, independent)
    return Accuracy(mean, 0.0 if mean == 0 else low, 1.0 if mean == 1 else high, n)


def _score_interval(share: float, n: float) -> tuple[float, float]:
    square = _Z * _Z
    middle = (share + square / (2 * n)) / (1 + square / n)
    half = _Z / (1 + square / n) * math.sqrt(share * (1 - share) / n + square / (4 * n * n))
    return middle - half, middle + half


def difference(later: Accuracy, earlier: Accuracy) -> Difference:
    """later − earlier with Newcombe's hybrid score interval (Stat. Med. 17, 1998, p. 873, method 10)."""
    mean = later.mean - earlier.mean
    down = math.hypot(later.mean - later.low, earlier.high - earlier.mean)
    up = math.hypot(later.high - later.mean, earlier.mean - earlier.low)
    return Difference(mean, mean - down, mean + up)


def accuracy_by(answers: Iterable[tuple[K, bool]]) -> dict[K, Accuracy]:
    """The accuracy of each group of (group, correct) pairs, in the order of the groups.

    >>> list(accuracy_by([(2, True), (1, False), (2, False)]))
    [1, 2]
    """
    counts: dict[K, list[int]] = {}
    for group, correct in answers:
        count = counts.setdefault(group, [0, 0])
        count[0] += bool(correct)
        count[1] += 1
    return {group: wilson(*counts[group]) for group in sorted(counts)}  # pyright: ignore[reportArgumentType]
