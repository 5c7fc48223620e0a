"""Shares of right answers, with intervals that hold for small samples and at 0 and 1.

Every interval is a 95% one. Those of `wilson` take the answers as independent: several attempts at the same question,
or questions that share an entity, make them too narrow; repeated.py is for several attempts.
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
    low, high = score_interval(correct / n, n)
    # At the ends the bound is exactly 0 or 1; rounding would miss it by 1e-17.
    return Accuracy(correct / n, 0.0 if correct == 0 else low, 1.0 if correct == n else high, n)


def score_interval(share: float, n: float) -> tuple[float, float]:
    """Wilson's bounds of a share of `n` independent answers, which need not be a whole number."""
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
