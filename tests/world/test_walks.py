"""Walks of any depth follow from the links, end where they never were before, and can be told in Chinese."""

import re

import pytest

from mirothinker_jax.config import ConfigError, WorldConfig
from mirothinker_jax.world.chinese import WORDS, in_chinese
from mirothinker_jax.world.facts import SOURCES, load_world
from mirothinker_jax.world.lines import NAMES
from mirothinker_jax.world.questions import make_questions

ATTRIBUTES = ("city", "capital")


@pytest.mark.parametrize("hops", [9, 64])
def test_every_walk_follows_from_the_links(world, hops):
    walks = make_questions(world, "heldout", (hops,), 12, 0, ATTRIBUTES)
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
    first, again, other = (make_questions(world, "heldout", (16,), 8, seed, ATTRIBUTES) for seed in (1, 1, 2))
    assert first == again and first != other
    assert all(len(set(walk.relations)) < 16 for walk in first)


def test_lines_lead_round_every_neighbourhood_and_deep_relations_all_differ():
    plain, lined = (load_world(WorldConfig(sources=("airports",), lines=n), 0) for n in (0, 64))
    assert plain.split == lined.split
    for name in list(dict.fromkeys(lined.neighbourhood.values()))[:3]:
        pages = {page for page, home in lined.neighbourhood.items() if home == name}
        for line in NAMES:
            here, seen = min(pages), set()
            while here not in seen:
                seen.add(here)
                here = lined.entities[here].links[line]
            assert seen == pages
        assert all(plain.entities[p].links.items() <= lined.entities[p].links.items() for p in pages)
    for walk in make_questions(lined, "heldout", (32, 64), 6, 0, ("icao",)):
        assert len(set(walk.relations)) == walk.hops
    first, other = (load_world(WorldConfig(sources=("airports",), lines=1), seed) for seed in (0, 1))
    assert any(first.entities[p].links["ba"] != other.entities[p].links["ba"] for p in first.entities)


def test_a_world_that_is_too_small():
    small = load_world(WorldConfig(sources=("airports",), max_entities=8, heldout_fraction=0.5), 0)
    with pytest.raises(
        ConfigError, match=r"gives only \d+ of 9999 heldout questions of 9 hops: raise world.max_entities"
    ):
        make_questions(small, "heldout", (9,), 9999, 0, ATTRIBUTES)


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
