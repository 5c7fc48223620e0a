"""What a group gives to a step, and what of it counts without being computed."""

import dataclasses

import pytest

from mirothinker_jax.config import GRPOConfig, TrainingConfig
from mirothinker_jax.trajectory.groups import group_rows
from mirothinker_jax.trajectory.types import Stop

CONFIG = GRPOConfig(training=TrainingConfig(sequence_length=16))


def advantages(rows):
    """Of each piece, by its trained tokens."""
    return [float(piece.advantages[piece.trained][0]) for piece in rows.pieces]


def test_a_group_is_compared_with_its_mean(make):
    group = [make(str(i), reward=float(i), correct=True) for i in range(3)]
    rows = group_rows(group, CONFIG, keep_equal=False)
    assert advantages(rows) == [-1, 0, 1] and (rows.left_out, rows.equal) == (0, False)


def test_what_says_nothing_about_the_policy_is_part_of_no_mean(make):
    group = [
        make("a", reward=1.0, correct=True),
        make("b", reward=0.0, correct=False),
        make("unjudged", reward=0.0, correct=None),
        make("never asked", reward=0.0, correct=False, segments=(), turns=()),
    ]
    rows = group_rows(group, CONFIG, keep_equal=False)
    assert advantages(rows) == [0.5, -0.5] and rows.left_out == 0


def test_what_curation_drops_is_part_of_no_mean_either(make):
    group = [make(name, reward=float(name == "a"), correct=True) for name in ("a", "b", "bad", "worse")]
    reason = lambda t: "is bad" if t.id in ("bad", "worse") else ""  # noqa: E731
    rows = group_rows(group, CONFIG, keep_equal=False, reason_to_drop=reason)
    assert advantages(rows) == [0.5, -0.5] and rows.dropped == 2


@pytest.mark.parametrize("stop", [Stop.LENGTH, Stop.CONTEXT])
def test_the_overlong_filter_takes_them_from_the_loss_and_not_from_the_mean(make, stop):
    group = [
        make("a", reward=1.0, correct=True),
        make("b", reward=0.0, correct=False),
        make("cut", reward=0.5, correct=False, stop=stop),
    ]
    off = group_rows(group, CONFIG, keep_equal=False)
    on = group_rows(group, dataclasses.replace(CONFIG, overlong_filter=True), keep_equal=False)
    assert advantages(off) == [0.5, -0.5, 0.0]
    assert advantages(on) == [0.5, -0.5] and on.left_out == 0


@pytest.mark.parametrize(
    ("aggregate", "denominator"),
    [("token-mean", 6), ("token-sum", 0), ("seq-mean-token-sum", 2), ("seq-mean-token-mean", 2)],
)
def test_a_group_of_equal_rewards_counts_uncomputed(make, aggregate, denominator):
    """Two episodes of three sampled tokens each."""
    group = [make("a", reward=1.0, correct=True), make("b", reward=1.0, correct=True)]
    config = dataclasses.replace(CONFIG, aggregate=aggregate)
    rows = group_rows(group, config, keep_equal=False)
    assert (rows.pieces, rows.left_out, rows.equal) == ([], denominator, True)
    kept = group_rows(group, config, keep_equal=True)
    assert advantages(kept) == [0, 0] and kept.left_out == 0
