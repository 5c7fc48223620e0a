"""Questions of known depth with checkable answers: follow links from a page, then read one fact.

Worked example, two hops: "Find the city: go west higher from KTM." means: open KTM's page, open the
page that "west" leads to, from there the one that "higher" leads to, and read "city". The relations of a
question differ from each other and its path visits no page twice. A question that some of its relations
answer without the others ("go west from KTM" ends at the same city) is rejected: it would reward an agent
for skipping steps, and its depth would not be what it says. Deeper questions than `PLAIN_HOPS` cannot be like that, and
are walks (walks.py).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import combinations

from mirothinker_jax.config import check
from mirothinker_jax.tasks.rules import is_correct
from mirothinker_jax.world.entity import Entity
from mirothinker_jax.world.facts import SOURCES, SPLITS, World
from mirothinker_jax.world.question import Question, ask
from mirothinker_jax.world.walks import PLAIN_HOPS, draw_walk

_TRIES_PER_ENTITY = 50  # random walks in a row without a new question: the world is too small


def make_questions(
    world: World, split: str, hops: Sequence[int], count: int, seed: int, attributes: Sequence[str] = ()
) -> list[Question]:
    """`count` different questions of one split, as evenly over `hops` as `count` allows, in mixed order.

    `attributes` are what may be asked for; empty: all that the source of a page offers.

    Raises:
      ConfigError: the world is too small for that many, or an argument makes no sense.
    """
    check(split in SPLITS, f"split is {split!r}; choose one of {', '.join(SPLITS)}")
    check(bool(hops) and all(h >= 0 for h in hops), f"hops is {tuple(hops)}; give one or more depths ≥ 0")
    starts = world.of_split(split)
    check(
        bool(starts) or count == 0,
        f"no {split} entities in this world: change world.heldout_fraction or raise world.max_entities",
    )
    rng = random.Random(f"{seed}|{split}")
    made: dict[tuple[str, ...], Question] = {}
    for place, depth in enumerate(hops):
        wanted = count // len(hops) + (place < count % len(hops))
        found = tries = 0
        while found < wanted:
            check(
                tries < _TRIES_PER_ENTITY * len(starts),
                f"this world gives only {found} of {wanted} {split} questions of {depth} hops: "
                "raise world.max_entities, lower world.max_hops, or ask for fewer questions",
            )
            tries += 1
            question = _draw(world, rng, rng.choice(starts), depth, split, attributes)
            if question and (key := (question.path[0], *question.relations, question.attribute)) not in made:
                made[key] = question
                found, tries = found + 1, 0
    questions = list(made.values())
    rng.shuffle(questions)
    return questions


def _draw(
    world: World, rng: random.Random, start: Entity, hops: int, split: str, attributes: Sequence[str]
) -> Question | None:
    """A random question from `start`; None where it runs into a dead end or the answer is given away."""
    if hops > PLAIN_HOPS:
        return draw_walk(world, rng, start, hops, split, attributes or SOURCES[start.kind].ATTRIBUTES)
    path, relations = [start], []
    while len(relations) < hops:
        visited = {e.id for e in path}
        steps = [(r, to) for r, to in path[-1].links.items() if r not in relations and to not in visited]
        if not steps:
            return None
        relation, to = rng.choice(steps)
        relations.append(relation)
        path.append(world.entities[to])
    offered = [a for a in SOURCES[start.kind].ATTRIBUTES if a in path[-1].facts]
    choices = [a for a in offered if not attributes or a in attributes]
    if not choices:
        return None
    attribute = rng.choice(choices)
    answer = path[-1].facts[attribute]
    if any(is_correct(answer, e.facts.get(attribute)) for e in _shortcuts(world, start, relations)):
        return None
    name = "-".join([split, start.id, *relations, attribute]).replace(" ", "_")
    return ask(name, split, path, relations, attribute)


def _shortcuts(world: World, start: Entity, relations: Sequence[str]) -> Iterator[Entity]:
    """Where one ends who follows some of the relations, in their order, but not all; `start` is one of them."""
    for length in range(len(relations)):
        for kept in combinations(relations, length):
            place = start
            for relation in kept:
                if relation not in place.links:
                    break
                place = world.entities[place.links[relation]]
            else:
                yield place
