"""Questions follow from the links, are balanced and unique, and give no answer away."""

from collections import Counter

import pytest

from mirothinker_jax.config import ConfigError, WorldConfig
from mirothinker_jax.tasks.rules import is_correct
from mirothinker_jax.world.entity import Entity
from mirothinker_jax.world.facts import World, load_world
from mirothinker_jax.world.questions import make_questions


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_every_question_follows_from_the_links(world, split):
    questions = make_questions(world, split, range(7), 350, seed=1)
    assert Counter(q.hops for q in questions) == dict.fromkeys(range(7), 50)
    assert len({q.id for q in questions}) == len({q.text for q in questions}) == 350
    for q in questions:
        here = world.entities[q.path[0]]
        assert q.start == here.title and q.text.endswith(f" {q.start}.")
        for relation, to in zip(q.relations, q.path[1:], strict=True):
            assert here.links[relation] == to
            here = world.entities[to]
        assert q.answer == here.facts[q.attribute]
        assert len(set(q.relations)) == len(q.relations) == q.hops
        assert len(set(q.path)) == len(q.path)
        assert all(world.split_of(i) == split == q.split for i in q.path)
        assert all(not is_correct(q.answer, world.entities[i].facts.get(q.attribute)) for i in q.path[:-1])


def test_same_seed_same_questions(world):
    first, again, other = (make_questions(world, "train", (1, 2), 40, seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert len({q.hops for q in first[:10]}) == 2  # depths are mixed, not one after the other


def test_uneven_counts_are_spread(world):
    questions = make_questions(world, "train", (0, 1, 2), 11, seed=0)
    assert sorted(Counter(q.hops for q in questions).values()) == [3, 4, 4]


def _tiny(second_city):
    a = Entity("A", "airports", "A", (), {"city": "Here", "elevation": "1"}, {"north": "B"})
    b = Entity("B", "airports", "B", (), {"city": second_city, "elevation": "1"}, {})
    return World({"A": a, "B": b}, {"A": "n", "B": "n"}, {"n": "train"})


def test_text():
    (question,) = make_questions(_tiny("There"), "train", (1,), 1, seed=0)
    assert question.text == "Find the city: go north from A."
    assert (question.answer, question.path, question.relations) == ("There", ("A", "B"), ("north",))
    texts = {q.text for q in make_questions(_tiny("There"), "train", (0,), 4, seed=0)}
    assert texts == {f"Find the {a}: look up {t}." for t in "AB" for a in ("city", "elevation")}


def test_an_answer_that_stands_on_an_earlier_page_is_rejected():
    with pytest.raises(ConfigError, match="gives only 0 of 1 train questions of 1 hops"):
        make_questions(_tiny("here "), "train", (1,), 1, seed=0)


def _crossroads(from_a):
    """A → north → B → east → C, and from A east as the test says; every page has its own code."""
    a = Entity("A", "airports", "A", (), {"icao": "AAAA"}, {"north": "B"} | from_a)
    b = Entity("B", "airports", "B", (), {"icao": "BBBB"}, {"east": "C"})
    c = Entity("C", "airports", "C", (), {"icao": "CCCC"}, {})
    return World({"A": a, "B": b, "C": c}, dict.fromkeys("ABC", "n"), {"n": "train"})


def test_a_question_that_skipping_a_step_answers_is_rejected():
    (question,) = make_questions(_crossroads({}), "train", (2,), 1, seed=0)
    assert question.text == "Find the icao: go north east from A."
    with pytest.raises(ConfigError, match="gives only 0 of 1 train questions of 2 hops"):
        make_questions(_crossroads({"east": "C"}), "train", (2,), 1, seed=0)


def test_world_too_small():
    world = load_world(WorldConfig(sources=("countries",)), seed=0)
    with pytest.raises(ConfigError, match=r"questions of 0 hops: raise world\.max_entities"):
        make_questions(world, "train", (0,), 10_000, seed=0)


def test_no_such_entities():
    with pytest.raises(ConfigError, match="no heldout entities"):
        make_questions(_tiny("There"), "heldout", (0,), 1, seed=0)


def test_bad_arguments(world):
    with pytest.raises(ConfigError, match="split is 'test'"):
        make_questions(world, "test", (0,), 1, seed=0)
    with pytest.raises(ConfigError, match="hops is"):
        make_questions(world, "train", (), 1, seed=0)
