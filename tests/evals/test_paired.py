"""Paired differences against counting by hand and every outcome of small cases."""

import itertools
import math

import numpy as np
import pytest

from mirothinker_jax.evals.paired import holm, mcnemar, paired_difference


def test_mcnemar_is_the_binomial_of_what_differs():
    for only_first, only_second in itertools.product(range(7), repeat=2):
        n = only_first + only_second
        outcomes = list(itertools.product((0, 1), repeat=n))
        far = abs(2 * only_second - n)
        as_far = sum(abs(2 * sum(outcome) - n) >= far for outcome in outcomes)
        assert mcnemar(only_first, only_second) == pytest.approx(as_far / len(outcomes), rel=1e-12)


def test_one_answer_each():
    first = {i: [i < 10] for i in range(40)}
    second = {i: [i < 9 or 20 <= i < 29] for i in range(41)}
    found = paired_difference(first, second)
    assert (found.test, found.n, found.only_first, found.only_second) == ("McNemar", 40, 1, 9)
    assert found.mean == pytest.approx(8 / 40) and found.p == mcnemar(1, 9)
    # The bootstrap's interval is about the normal one, and the same for the same seed.
    spread = np.std([1] * 9 + [-1] + [0] * 30) / math.sqrt(40)
    assert found.low == pytest.approx(0.2 - 1.96 * spread, abs=0.02)
    assert found.high == pytest.approx(0.2 + 1.96 * spread, abs=0.02)
    assert found == paired_difference(first, second) != paired_difference(first, second, seed=1)
    back = paired_difference(second, first)
    assert (back.mean, back.p, back.only_first) == (-found.mean, found.p, 9)


def test_several_answers_each():
    first = {q: [q % 2 == 0, False, False] for q in range(8)}
    second = {q: [True, q % 2 == 0, q == 0] for q in range(8)}
    found = paired_difference(first, second)
    differences = [sum(second[q]) / 3 - sum(first[q]) / 3 for q in range(8)]
    exact = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True))) >= sum(differences) - 1e-9
        for signs in itertools.product((1, -1), repeat=8)
    ]
    assert found.test == "sign flips" and found.mean == pytest.approx(np.mean(differences))
    assert found.p == pytest.approx(np.mean(exact), abs=0.005)
    same = paired_difference(first, first)
    assert (same.mean, same.low, same.high, same.p) == (0, 0, 0, 1)
    with pytest.raises(ValueError, match="no question was answered by both"):
        paired_difference({1: [True]}, {2: [True], 1: []})


def test_holm():
    assert holm({"a": 0.04, "b": 0.01, "c": 0.03}) == pytest.approx({"a": 0.06, "b": 0.03, "c": 0.06})
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0} and holm({}) == {}
