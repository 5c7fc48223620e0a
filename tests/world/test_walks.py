"""Walks of any depth follow from the links, end where they never were before, and can be told in Chinese."""

import re

import pytest

from mirothinker_jax.config import ConfigError, WorldConfig
from mirothinker_jax.world.chinese import WORDS, in_chinese
from mirothinker_jax.world.facts import SOURCES, load_world
from mirothinker_jax.world.questions import make_questions
from mirothinker_jax.world.walks import make_walks

ATTRIBUTES = ("city", "capital")


@pytest.mark.parametrize("hops", [1, 9, 64])
def test_every_walk_follows_from_the_links(world, hops):
    walks = make_walks(world, "heldout", hops, 12, 0, ATTRIBUTES)
    assert len({w.id for w in walks}) == 12 and max(len(w.id) for w in walks) < 80
    for walk in walks:
        here = world.entities[walk.path[0]]
        assert walk.hops == hops == len(walk.relations) and walk.text.endswith(f"from {here.title}.")
        for relation, to in zip(walk.relations, walk.path[1:], strict=True):
            assert here.links[relation] == to
            here = world.entities[to]
        assert walk.answer == here.facts[walk.attribute] and here.id not in walk.path[:-1]
        assert all(world.entities[i].facts.get(walk.attribute) != walk.answer for i in walk.path[:-1])
        assert all(world.split_of(i) == "heldout" for i in walk.path)


def test_same_seed_same_walks_and_relations_come_again(world):
    first, again, other = (make_walks(world, "heldout", 16, 8, seed, ATTRIBUTES) for seed in (1, 1, 2))
    assert first == again and first != other
    assert all(len(set(walk.relations)) < 16 for walk in first)


def test_a_world_that_is_too_small():
    small = load_world(WorldConfig(sources=("airports",), max_entities=8, heldout_fraction=0.5), 0)
    with pytest.raises(
        ConfigError, match=r"gives only \d+ of 9999 heldout walks of 3 hops: raise world.max_entities"
    ):
        make_walks(small, "heldout", 3, 9999, 0, ATTRIBUTES)


def test_chinese_has_a_word_of_its_own_for_every_name(world):
    names = {relation for e in world.entities.values() for relation in e.links}
    names |= {attribute for source in SOURCES.values() for attribute in source.ATTRIBUTES}
    assert names == WORDS.keys() and len(set(WORDS.values())) == len(WORDS)


def test_chinese_says_the_same(world):
    for question in make_questions(world, "heldout", range(4), 40, 0):
        names = [*question.relations, question.attribute]
        whole, frame = in_chinese(question), in_chinese(question, frame_only=True)
        assert question.start in whole and question.start in frame
        assert re.findall("|".join(sorted(WORDS.values(), key=len, reverse=True)), whole) == [
            WORDS[n] for n in names
        ]
        assert all(name in frame for name in names)
        if question.relations:
            assert f"：{' '.join(question.relations)}。" in frame
