"""Group advantages: golden numbers, and what must not change them."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mirothinker_jax.trajectory.advantage import group_advantages

BINARY, NEARLY_EQUAL = [1, 0, 0, 1], [0.5, 0.5, 0.5, 0.6]
KINDS = ("mean", "std", "rloo")

rewards = st.lists(st.floats(-2, 2, width=32), min_size=2, max_size=9)


@pytest.mark.parametrize(
    ("kind", "group", "expected"),
    [
        ("mean", BINARY, [0.5, -0.5, -0.5, 0.5]),
        ("mean", NEARLY_EQUAL, [-0.025, -0.025, -0.025, 0.075]),
        ("std", BINARY, [0.8660239, -0.8660239, -0.8660239, 0.8660239]),
        ("std", NEARLY_EQUAL, [-0.4999894, -0.4999894, -0.4999894, 1.4999707]),
        ("rloo", BINARY, [0.6666667, -0.6666667, -0.6666667, 0.6666667]),
        ("rloo", NEARLY_EQUAL, [-0.0333333, -0.0333333, -0.0333333, 0.1]),
    ],
)
def test_golden_numbers(kind, group, expected):
    """Of a reference run in float32, hence to seven digits."""
    np.testing.assert_allclose(group_advantages(np.asarray(group), kind), expected, rtol=3e-6)


def test_rloo_compares_with_the_mean_of_the_others():
    group = np.asarray([3.0, 1.0, 0.5])
    others = [(1.0 + 0.5) / 2, (3.0 + 0.5) / 2, (3.0 + 1.0) / 2]
    np.testing.assert_allclose(group_advantages(group, "rloo"), group - others)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("group", [[], [0.7], [1, 1, 1, 1], [0.1 + 0.2, 0.3, 0.3]])
def test_no_signal_gives_exact_zeros(kind, group):
    """A lone episode, and rewards that are equal up to rounding, which the std would blow up."""
    advantages = group_advantages(np.asarray(group), kind)
    assert advantages.shape == (len(group),) and not advantages.any()


@pytest.mark.parametrize("kind", KINDS)
@given(rewards, st.floats(-10, 10))
def test_adding_a_constant_changes_nothing(kind, group, constant):
    assume(np.ptp(group) > 1e-3)
    moved = group_advantages(np.asarray(group) + constant, kind)
    np.testing.assert_allclose(moved, group_advantages(np.asarray(group), kind), atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
@given(rewards, st.randoms(use_true_random=False))
def test_the_order_of_a_group_does_not_matter(kind, group, random):
    order = random.sample(range(len(group)), len(group))
    shuffled = group_advantages(np.asarray(group)[order], kind)
    np.testing.assert_allclose(shuffled, group_advantages(np.asarray(group), kind)[order], atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@given(rewards)
def test_advantages_of_a_group_add_up_to_zero(kind, group):
    assert abs(group_advantages(np.asarray(group), kind).sum()) < 1e-9


@given(rewards, st.floats(0.1, 10))
def test_only_std_ignores_the_scale(group, scale):
    assume(np.std(group, ddof=1) > 0.1)
    group = np.asarray(group)
    for kind in ("mean", "rloo"):
        np.testing.assert_allclose(
            group_advantages(scale * group, kind), scale * group_advantages(group, kind), atol=1e-9
        )
    np.testing.assert_allclose(
        group_advantages(scale * group, "std"), group_advantages(group, "std"), rtol=2e-4
    )
