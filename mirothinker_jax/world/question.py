"""A question about the embedded world, and its words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mirothinker_jax.world.entity import Entity


@dataclass(frozen=True)
class Question:
    """A question with its reference answer and the route that leads there."""

    id: str
    text: str
    answer: str
    hops: int
    split: str
    start: str  # title of the page to begin at
    path: tuple[str, ...]  # entity ids, from the start to the one that is asked about
    relations: tuple[str, ...]  # one per hop
    attribute: str


def ask(name: str, split: str, path: Sequence[Entity], relations: Sequence[str], attribute: str) -> Question:
    """The question, with the id `name`, whose way is `path`."""
    start, end = path[0], path[-1]
    route = f"go {' '.join(relations)} from" if relations else "look up"
    return Question(
        id=name,
        text=f"Find the {attribute}: {route} {start.title}.",
        answer=end.facts[attribute],
        hops=len(relations),
        split=split,
        start=start.title,
        path=tuple(page.id for page in path),
        relations=tuple(relations),
        attribute=attribute,
    )
