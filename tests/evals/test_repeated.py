"""Figures of repeated answers against counting, formulas written another way, and a worked simulation."""

import itertools
import math
import random

import numpy as np
import pytest

from mirothinker_jax.evals import repeated
from mirothinker_jax.evals.statistics import wilson


def clustered_as_written(scores):
    """arXiv 2411.00640, equation of the clustered error: the sum over pairs of answers of one question."""
    flat = [(q, s) for q, verdicts in scores.items() for s in verdicts]
    mean = sum(s for _, s in flat) / len(flat)
    covariance = sum((a - mean) * (b - mean) for q, a in flat for r, b in flat if q == r)
    correction = len(scores) / (len(scores) - 1)
    return math.sqrt(correction * covariance) / len(flat)


def test_clustered_errors():
    scores = {"a": [True, True, False], "b": [False] * 3, "c": [True, False, False], "d": [True] * 3}
    assert repeated.clustered_error(scores) == pytest.approx(clustered_as_written(scores), rel=1e-12)
    assert repeated.mean_score(scores) == 0.5
    # A question of which less was judged still counts once.
    assert repeated.mean_score({"a": [True], "b": [False] * 3, "c": []}) == 0.5
    single = {i: [i % 3 == 0] for i in range(30)}
    usual = np.std([s for (s,) in single.values()], ddof=1) / math.sqrt(30)
    assert repeated.clustered_error(single) == pytest.approx(usual, rel=1e-12)
    # Runs that say the same add nothing.
    copied = {q: verdicts * 8 for q, verdicts in single.items()}
    assert repeated.clustered_error(copied) == pytest.approx(usual, rel=1e-12)
    assert repeated.naive_error(copied) == pytest.approx(math.sqrt(1 / 3 * 2 / 3 / 240), rel=1e-12)
    assert repeated.clustered_error({"a": [True, False], "b": []}) is None
    with pytest.raises(ValueError, match="no answers"):
        repeated.mean_score({"a": []})


def test_103_questions_of_8_runs():
    """Questions differ in how hard they are, so 824 answers say little more than 103: at 73.5% right the error is 3.3
    points, where answers taken as independent would give 1.5."""
    rng = np.random.default_rng(0)
    # A Beta distribution of mean .735 that gives the questions' means, of 8 answers each, a deviation of 3.3 · √103.
    # Var = p(1-p) [r + (1-r)/8] with r = 1/(a+b+1).
    p, wanted = 0.735, (0.033**2) * 103
    r = (wanted / (p * (1 - p)) - 1 / 8) * 8 / 7
    total = 1 / r - 1
    errors, means = [], []
    for _ in range(150):
        chances = rng.beta(p * total, (1 - p) * total, size=103)
        scores = {i: (rng.random(8) < chance).tolist() for i, chance in enumerate(chances)}
        errors.append(repeated.clustered_error(scores))
        means.append(repeated.mean_score(scores))
    assert np.mean(errors) == pytest.approx(0.033, abs=0.0005)
    assert np.std(means, ddof=1) == pytest.approx(0.033, abs=0.004)  # what the error is an estimate of
    assert repeated.naive_error({0: [True] * 606 + [False] * 218}) == pytest.approx(0.0154, abs=5e-5)


def test_pass_at_k_is_the_share_of_draws_with_a_right_answer():
    assert repeated.pass_at(4, 8, 2) == pytest.approx(11 / 14, rel=1e-12)
    for n in range(1, 7):
        for correct, k in itertools.product(range(n + 1), range(1, n + 1)):
            draws = list(itertools.combinations([True] * correct + [False] * (n - correct), k))
            assert repeated.pass_at(k, n, correct) == pytest.approx(
                sum(map(any, draws)) / len(draws), rel=1e-12
            )
    scores = {"a": [True, False, False], "b": [False, False], "c": [True]}
    assert repeated.mean_pass_at(2, scores) == pytest.approx((2 / 3 + 0) / 2)
    assert repeated.mean_pass_at(4, scores) is None
    for k, n, correct in ((0, 3, 1), (4, 3, 1), (1, 3, 4)):
        with pytest.raises(ValueError, match=f"pass@{k} of {n} answers, {correct} right"):
            repeated.pass_at(k, n, correct)


@pytest.mark.parametrize(
    ("answers", "place"),
    [
        (["b", "a", "a"], 1),
        (["b", "a"], 0),
        (["a", "b", "b", "a"], 0),
        ([None, "", " ", "b"], 3),
        ([None, None], None),
        ([], None),
        (["1,000", "2", r"$1000$"], 0),
        (["São Tomé", "x", "x", "sao tome", "**São Tomé**"], 0),
    ],
)
def test_a_majority_and_its_ties(answers, place):
    assert repeated.majority(answers) == place


def test_majority_at_k():
    a = [("x", True), ("y", False), ("x", True), ("y", False), ("y", False), ("z", False)]
    assert repeated.mean_majority_at(3, {"a": a, "b": [("x", True)]}) == 0.5
    assert repeated.mean_majority_at(1, {"a": a}) == pytest.approx(1 / 3)
    assert repeated.mean_majority_at(2, {"a": [(None, False)] * 2}) == 0
    assert repeated.mean_majority_at(7, {"a": a}) is None
    # Where most answers are right, a majority of many is right more often.
    rng = random.Random(0)
    many = {
        q: [("r", True) if rng.random() < 0.7 else (str(rng.randrange(9)), False) for _ in range(32)]
        for q in range(40)
    }
    one, eight = repeated.mean_majority_at(1, many), repeated.mean_majority_at(8, many)
    assert one == pytest.approx(0.7, abs=0.04) and eight > 0.95


def test_spread_over_runs():
    assert repeated.spread_over_runs([0.7, 0.8, 0.75]) == pytest.approx(0.05)
    assert repeated.spread_over_runs([0.7]) is None


def test_several_answers_to_a_question_are_not_as_many_independent_ones():
    """Of 100 questions 50 are right. Each asked four times with the same outcome says no more than asked once; with
    independent outcomes it says about as much as 400 questions."""
    once = repeated.accuracy({q: [q % 2 == 0] for q in range(100)})
    assert (once.mean, once.n) == (0.5, 100)
    assert once.low == pytest.approx(wilson(50, 100).low, abs=1e-3)
    same = repeated.accuracy({q: [q % 2 == 0] * 4 for q in range(100)})
    assert (same.mean, same.n) == (0.5, 400)
    assert (same.low, same.high) == pytest.approx((once.low, once.high))
    rng = random.Random(0)
    drawn = repeated.accuracy({q: [rng.random() < 0.5 for _ in range(4)] for q in range(100)})
    assert drawn.high - drawn.low == pytest.approx(2 * 1.96 * math.sqrt(0.25 / 400), rel=0.15)


def test_questions_count_alike_whatever_the_number_of_their_answers():
    assert repeated.accuracy({"a": [True], "b": [False] * 3, "c": []}).mean == 0.5
    # All alike: the variance says nothing, and each question counts once.
    right = repeated.accuracy({q: [True] * 8 for q in range(10)} | {"not judged": []})
    assert (right.low, right.high) == (wilson(10, 10).low, 1.0)
    with pytest.raises(ValueError, match="no answers"):
        repeated.accuracy({})
    pairs = [("a", True), ("b", None), ("a", False), ("c", False)]
    assert repeated.by_question(pairs) == {"a": [True, False], "c": [False]}


def test_about_95_of_100_clustered_intervals_hold_the_truth():
    """Questions of different difficulty (Beta(1, 1)), four answers each."""
    rng = random.Random(1)
    held = 0
    for _ in range(400):
        shares = [rng.random() for _ in range(60)]
        scores = {q: [rng.random() < share for _ in range(4)] for q, share in enumerate(shares)}
        found = repeated.accuracy(scores)
        held += found.low <= 0.5 <= found.high
    assert 0.925 <= held / 400 <= 0.975
