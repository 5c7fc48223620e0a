"""Intervals against published worked examples and against what an interval must do."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirothinker_jax.evals.statistics import accuracy_by, difference, wilson

counts = st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    # Newcombe (Stat. Med. 17, 1998, p. 857), table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_against_published_intervals(correct, n, low, high):
    share = wilson(correct, n)
    assert share.mean == correct / n and share.n == n
    assert share.low == pytest.approx(low, abs=6e-5)
    assert share.high == pytest.approx(high, abs=6e-5)


@pytest.mark.parametrize(
    ("later", "earlier", "low", "high"),
    # Newcombe (Stat. Med. 17, 1998, p. 873), table II, method 10.
    [
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((10, 10), (0, 20), 0.6791, 1.0),
        ((10, 10), (0, 10), 0.6075, 1.0),
    ],
)
def test_difference_against_published_intervals(later, earlier, low, high):
    gain = difference(wilson(*later), wilson(*earlier))
    assert gain.low == pytest.approx(low, abs=6e-5)
    assert gain.high == pytest.approx(high, abs=6e-5)


@given(counts)
def test_an_interval_holds_the_share_and_mirrors(count):
    correct, n = count
    share, mirror = wilson(correct, n), wilson(n - correct, n)
    assert 0 <= share.low <= share.mean <= share.high <= 1
    assert share.low == pytest.approx(1 - mirror.high, abs=1e-12)


@given(counts, counts)
def test_a_difference_holds_its_mean_and_mirrors(a, b):
    forth, back = difference(wilson(*a), wilson(*b)), difference(wilson(*b), wilson(*a))
    assert -1 - 1e-12 <= forth.low <= forth.mean <= forth.high <= 1 + 1e-12
    assert (forth.mean, forth.low, forth.high) == (-back.mean, -back.high, -back.low)


def test_about_95_of_100_intervals_hold_the_truth():
    # Exact coverage, summed over all outcomes of 50 answers: near 0.95 for every share that is not extreme.
    n = 50
    shares = [wilson(k, n) for k in range(n + 1)]
    coverage = []
    for p in (i / 100 for i in range(10, 91)):
        chances = (math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1))
        coverage.append(sum(c for c, s in zip(chances, shares, strict=True) if s.low <= p <= s.high))
    assert sum(coverage) / len(coverage) == pytest.approx(0.95, abs=0.005)
    assert min(coverage) > 0.92


@pytest.mark.parametrize(("correct", "n"), [(0, 0), (3, 2), (-1, 5)])
def test_impossible_counts(correct, n):
    with pytest.raises(ValueError, match=f"{correct} correct of {n}"):
        wilson(correct, n)


def test_accuracy_by_group():
    groups = accuracy_by([(2, True), (1, False), (2, False), (2, True)])
    assert groups == {1: wilson(0, 1), 2: wilson(2, 3)}
    assert list(groups) == [1, 2]
