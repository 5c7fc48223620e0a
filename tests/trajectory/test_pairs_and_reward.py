"""Which episodes make a pair, and what an episode is worth."""

import random

import pytest

from mirothinker_jax.trajectory.pairs import make_pairs
from mirothinker_jax.trajectory.reward import violates_format, with_reward
from mirothinker_jax.trajectory.types import Stop


def ids(pairs):
    return {(c.id, r.id) for c, r in pairs}


def test_correct_against_wrong_of_the_same_question(make):
    episodes = [
        make("a1", "a", correct=True),
        make("a2", "a", correct=False),
        make("b1", "b", correct=True),
        make("c1", "c", correct=False),
    ]
    assert ids(make_pairs(episodes, 4, seed=0)) == {("a1", "a2")}


@pytest.mark.parametrize(
    "fields",
    [
        {"answer": None, "stop": Stop.NO_ANSWER},
        {"answer": None, "stop": Stop.LENGTH},
        {"answer": None, "stop": Stop.CONTEXT},
        {"correct": None},
        {"malformed_calls": 1},
    ],
    ids=str,
)
def test_a_rejected_episode_must_end_in_a_valid_answer(make, fields):
    good = make("a1", "a", correct=True)
    assert make_pairs([good, make("a2", "a", **({"correct": False} | fields))], 4, seed=0) == []
    forced = make("a3", "a", correct=False, stop=Stop.FORCED)
    assert ids(make_pairs([good, forced], 4, seed=0)) == {("a1", "a3")}


def test_a_chosen_episode_with_a_malformed_call_teaches_no_one(make):
    episodes = [make("a1", "a", correct=True, malformed_calls=1), make("a2", "a", correct=False)]
    assert make_pairs(episodes, 4, seed=0) == []


def many(make):
    return [make(f"{q}{i}", q, correct=i % 3 == 0) for q in "abcdef" for i in range(9)]


def test_each_episode_is_in_one_pair_at_most_and_a_question_gives_so_many(make):
    pairs = make_pairs(many(make), 2, seed=0)
    assert len(pairs) == 6 * 2
    used = [t.id for pair in pairs for t in pair]
    assert len(set(used)) == len(used)
    assert all(c.correct and not r.correct and c.question_id == r.question_id for c, r in pairs)
    assert len(make_pairs(many(make), 100, seed=0)) == 6 * 3  # three correct ones in each question


def test_the_order_of_the_episodes_does_not_matter_and_the_seed_does(make):
    episodes = many(make)
    pairs = make_pairs(episodes, 2, seed=0)
    shuffled = random.Random(1).sample(episodes, len(episodes))
    assert make_pairs(shuffled, 2, seed=0) == pairs
    assert make_pairs(episodes, 2, seed=1) != pairs


@pytest.mark.parametrize(
    ("fields", "violation"),
    [
        ({}, False),
        ({"stop": Stop.FORCED}, False),
        ({"failed_calls": 3}, False),
        ({"stop": Stop.INFRASTRUCTURE, "answer": None}, False),
        ({"stop": Stop.NO_ANSWER, "answer": None}, True),
        ({"stop": Stop.GAVE_UP, "answer": None}, False),
        ({"stop": Stop.LENGTH, "answer": None}, True),
        ({"stop": Stop.CONTEXT, "answer": None}, True),
        ({"malformed_calls": 1}, True),
    ],
    ids=str,
)
def test_what_violates_the_format(make, fields, violation):
    assert violates_format(make(**fields)) is violation


@pytest.mark.parametrize(
    ("fields", "reward"),
    [
        (dict(correct=True), 2.0),
        (dict(correct=True, malformed_calls=2), 1.75),
        (dict(correct=False), 0.0),
        (dict(correct=False, malformed_calls=1), -0.25),
        (dict(correct=None, malformed_calls=1), 0.0),
    ],
    ids=str,
)
def test_the_reward(make, fields, reward):
    episode = make(**fields)
    assert with_reward(episode, 2.0, 0.25).reward == reward
    assert episode.reward == 0.0, "the given episode was changed"


def test_the_graders_terms_are_added_with_their_factors(make):
    episode = make(correct=True, terms={"brevity": 0.5, "cost": 3.0, "unused": 100.0})
    assert with_reward(episode, 1.0, terms={"brevity": 0.2, "cost": -0.1}).reward == pytest.approx(0.8)
    with pytest.raises(
        ValueError, match="names 'speed', and the grader gave episode t0 brevity, cost, unused"
    ):
        with_reward(episode, terms={"speed": 1.0})
    unjudged = make(correct=None)
    assert with_reward(unjudged, terms={"speed": 1.0}).reward == 0
