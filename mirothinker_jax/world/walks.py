"""Questions of any depth: walks whose relations and pages may come again, for how far a policy keeps its way.

A question of questions.py has no more hops than there are relations. Here only the last page is one that the walk never
saw before, so whoever stops early is wrong. Unlike there, some of the relations may lead to the answer without the
others: in a neighbourhood of fifty pages, nearly every page is the end of some part of a walk of 64 hops. So a right
answer says less than the pages that were read on the way to it.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Collection, Sequence

from mirothinker_jax.config import check
from mirothinker_jax.world.entity import Entity
from mirothinker_jax.world.facts import World
from mirothinker_jax.world.questions import Question

_TRIES = 2000  # walks in a row without a new question: the world is too small


def make_walks(
    world: World, split: str, hops: int, count: int, seed: int, attributes: Collection[str]
) -> list[Question]:
    """`count` different walks of `hops` hops through pages of one split, each of which asks for one of `attributes`.

    Raises ConfigError where the world has too few.
    """
    starts, rng = world.of_split(split), random.Random(f"{seed}|walk|{split}|{hops}")
    found: dict[str, Question] = {}
    tries = 0
    while len(found) < count:
        check(
            bool(starts) and tries < _TRIES,
            f"this world gives only {len(found)} of {count} {split} walks of {hops} hops: raise world.max_entities, or "
            "ask for fewer (study.walks) or shorter ones (study.depths, study.long_depths)",
        )
        tries += 1
        question = _draw(world, rng, rng.choice(starts), hops, split, attributes)
        if question is not None and question.id not in found:
            found[question.id] = question
            tries = 0
    return list(found.values())


def _draw(
    world: World, rng: random.Random, start: Entity, hops: int, split: str, attributes: Collection[str]
) -> Question | None:
    """A random walk; None where it ends on a page that it saw before, or that lacks the attribute."""
    path, relations = [start], list[str]()
    for _ in range(hops):
        if not path[-1].links:
            return None
        relation = rng.choice(sorted(path[-1].links))
        relations.append(relation)
        path.append(world.entities[path[-1].links[relation]])
    end = path.pop()
    offered = sorted(set(attributes) & end.facts.keys())
    if not offered or any(end.id == page.id for page in path):
        return None
    attribute = rng.choice(offered)
    if any(page.facts.get(attribute) == end.facts[attribute] for page in path):
        return None
    return _question(split, [*path, end], relations, attribute)


def _question(split: str, path: Sequence[Entity], relations: Sequence[str], attribute: str) -> Question:
    """The question whose way is `path`, in the words of questions.py."""
    start, end = path[0], path[-1]
    route = f"go {' '.join(relations)} from" if relations else "look up"
    # A short name: it is part of the ids of requests, which go over the wire.
    name = hashlib.sha256("|".join([*relations, attribute]).encode()).hexdigest()[:8]
    return Question(
        id=f"walk-{split}-{len(relations)}-{start.id}-{name}",
        text=f"Find the {attribute}: {route} {start.title}.",
        answer=end.facts[attribute],
        hops=len(relations),
        split=split,
        start=start.title,
        path=tuple(page.id for page in path),
        relations=tuple(relations),
        attribute=attribute,
    )
