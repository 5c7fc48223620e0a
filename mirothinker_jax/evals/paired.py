"""Two policies on the same questions: how much better one is, and whether that may be chance.

Pairs are questions, since answers to one question are alike. With one answer each, the p-value is McNemar's exact one;
with several, that of flipping the signs of the questions' differences. The interval is a bootstrap over questions.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np

from mirothinker_jax.evals.repeated import Scores

_DRAWS = 10_000
_AT_ONCE = 256  # draws whose numbers are in memory together


@dataclass(frozen=True)
class PairedDifference:
    """The second policy's accuracy minus the first's.

    Attributes:
      mean, low, high: the difference and its 95% interval, −1…1.
      p: chance of so large a difference, of either sign, where there is none.
      test: "McNemar" or "sign flips".
      only_first, only_second: questions on which that policy alone is right (more often right).
    """

    mean: float
    low: float
    high: float
    p: float
    test: str
    n: int
    only_first: int
    only_second: int


def paired_difference(first: Scores, second: Scores, seed: int = 0) -> PairedDifference:
    """Of the questions that both answered. Raises ValueError where there are none."""
    both = [q for q in first if first[q] and second.get(q)]
    if not both:
        raise ValueError("no question was answered by both policies; evaluate them on the same file")
    rates = np.array([[np.mean(scores[q]) for q in both] for scores in (first, second)])
    differences = rates[1] - rates[0]
    single = all(len(scores[q]) == 1 for scores in (first, second) for q in both)
    rng = np.random.default_rng(seed)
    low, high = _interval(differences, rng)
    only_first, only_second = int(np.sum(differences < 0)), int(np.sum(differences > 0))
    return PairedDifference(
        float(np.mean(differences)),
        low,
        high,
        mcnemar(only_first, only_second) if single else _sign_flips(differences, rng),
        "McNemar" if single else "sign flips",
        len(both),
        only_first,
        only_second,
    )


def paired_means(first: Mapping[str, float], second: Mapping[str, float], seed: int = 0) -> dict[str, float]:
    """Of a number that both have for each question: mean of second − first, its 95% interval `low` and `high`, and `p`
    of flipping signs. Raises ValueError where they share no question."""
    both = [q for q in first if q in second]
    if not both:
        raise ValueError("no question has a number of both")
    differences, rng = np.array([second[q] - first[q] for q in both], float), np.random.default_rng(seed)
    low, high = _interval(differences, rng)
    return {
        "mean": float(np.mean(differences)),
        "low": low,
        "high": high,
        "p": _sign_flips(differences, rng),
    }


def mcnemar(only_first: int, only_second: int) -> float:
    """The exact two-sided p-value of McNemar's test, from the questions on which two policies differ.

    >>> mcnemar(1, 9)
    0.021484375
    """
    n = only_first + only_second
    tail = sum(math.comb(n, i) for i in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / 2**n)


def holm(p_values: Mapping[Hashable, float]) -> dict[Hashable, float]:
    """p-values of several comparisons, such as one for each budget, adjusted by Holm's method (Scand. J. Stat. 6, 1979,
    p. 65): below 0.05 still means at most a 5% chance of any false alarm among them.

    >>> holm({"8": 0.01, "16": 0.04, "32": 0.03})
    {'8': 0.03, '16': 0.06, '32': 0.06}
    """
    adjusted, so_far = {}, 0.0
    for rank, (key, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        so_far = max(so_far, min(1.0, (len(p_values) - rank) * p))
        adjusted[key] = so_far
    return {key: adjusted[key] for key in p_values}


def _interval(differences: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    n = len(differences)
    means = np.concatenate(
        [differences[rng.integers(n, size=(_AT_ONCE, n))].mean(1) for _ in range(-(-_DRAWS // _AT_ONCE))]
    )
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def _sign_flips(differences: np.ndarray, rng: np.random.Generator) -> float:
    seen = abs(differences.sum())
    signs = (
        rng.choice((-1.0, 1.0), size=(_AT_ONCE, len(differences))) for _ in range(-(-_DRAWS // _AT_ONCE))
    )
    # A sum of halves and thirds may come out a rounding error below the same sum in another order.
    as_large = sum(int(np.sum(np.abs(s @ differences) >= seen - 1e-9)) for s in signs)
    return (1 + as_large) / (1 + -(-_DRAWS // _AT_ONCE) * _AT_ONCE)
