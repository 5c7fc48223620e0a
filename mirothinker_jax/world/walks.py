"""Deep questions: walks whose pages may come again, and whose relations do where there are not enough of them.

A question of up to `PLAIN_HOPS` hops (questions.py) is not answered by anyone who skips some of them. No deep one is
like that: in a neighbourhood of fifty pages, nearly every page is the end of some part of a walk of 64 hops. So a right
answer says less than the pages that were read on the way to it. But the last page is one that the walk never saw
before, so whoever stops early is wrong.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Collection

from mirothinker_jax.world.entity import Entity
from mirothinker_jax.world.facts import World
from mirothinker_jax.world.question import Question, ask

PLAIN_HOPS = 8  # as many relations as facts give


def draw_walk(
    world: World, rng: random.Random, start: Entity, hops: int, split: str, attributes: Collection[str]
) -> Question | None:
    """A random walk that asks for one of `attributes`; None where it ends on a page that it saw before, or that lacks
    them."""
    path, relations = [start], list[str]()
    for _ in range(hops):
        offered = sorted(path[-1].links)
        if not offered:
            return None
        fresh = [relation for relation in offered if relation not in relations]
        relations.append(rng.choice(fresh or offered))
        path.append(world.entities[path[-1].links[relations[-1]]])
    end = path[-1]
    choices = sorted(set(attributes) & end.facts.keys())
    if not choices or any(end.id == page.id for page in path[:-1]):
        return None
    attribute = rng.choice(choices)
    if any(page.facts.get(attribute) == end.facts[attribute] for page in path[:-1]):
        return None
    # A short name: it is part of the ids of requests, which go over the wire.
    digest = hashlib.sha256("|".join([*relations, attribute]).encode()).hexdigest()[:8]
    return ask(f"walk-{split}-{hops}-{start.id}-{digest}", split, path, relations, attribute)
