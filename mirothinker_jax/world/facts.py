"""The world: entities from packaged real facts, in neighbourhoods that no link leaves.

A neighbourhood is either training or held-out as a whole. As links stay inside, nothing that a training
question touches is touched by a held-out one.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mirothinker_jax.config import WorldConfig, check
from mirothinker_jax.world import airports, countries
from mirothinker_jax.world.entity import Entity
from mirothinker_jax.world.lines import line_links

SOURCES = {airports.KIND: airports, countries.KIND: countries}
SPLITS = ("train", "heldout")
SMALLEST_NEIGHBOURHOOD = 4  # fewer entities make no chains worth asking about


@dataclass(frozen=True)
class World:
    """All entities, and which split each belongs to."""

    entities: Mapping[str, Entity]  # by id
    neighbourhood: Mapping[str, str]  # entity id → neighbourhood
    split: Mapping[str, str]  # neighbourhood → "train" or "heldout"

    def split_of(self, entity_id: str) -> str:
        """Whose questions may touch the entity: "train" or "heldout"."""
        return self.split[self.neighbourhood[entity_id]]

    def of_split(self, split: str) -> list[Entity]:
        """Entities of one split, in a fixed order."""
        return [e for e in self.entities.values() if self.split_of(e.id) == split]


def load_world(settings: WorldConfig, seed: int) -> World:
    """Reads the packaged facts, chooses neighbourhoods, links their entities and splits them.

    The same settings and seed give the same world in every process. Takes about a second for everything.
    """
    groups = {name: rows for source in settings.sources for name, rows in SOURCES[source].read().items()}
    groups = {name: rows for name, rows in groups.items() if len(rows) >= SMALLEST_NEIGHBOURHOOD}
    sizes = {name: len(rows) for name, rows in groups.items()}
    kept = _choose(sizes, settings.max_entities, seed)
    entities: dict[str, Entity] = {}
    neighbourhood: dict[str, str] = {}
    for name in kept:
        built = SOURCES[name.split("/")[0]].build(groups[name])
        lines = line_links([entity.id for entity in built], settings.lines, seed)
        for entity in built:
            check(
                entity.id not in entities,
                f"world.sources {settings.sources}: two entities share the id {entity.id!r}",
            )
            entities[entity.id] = dataclasses.replace(entity, links={**entity.links, **lines[entity.id]})
            neighbourhood[entity.id] = name
    split = _split({name: sizes[name] for name in kept}, settings.heldout_fraction, seed)
    return World(entities, neighbourhood, split)


def _shuffle(names: Iterable[str], purpose: str, seed: int) -> list[str]:
    """Names in an order that a hash decides: independent of the platform, and of the other names."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}|{purpose}|{name}".encode()).digest())


def _choose(sizes: Mapping[str, int], limit: int, seed: int) -> list[str]:
    """Whole neighbourhoods with at most `limit` entities together (0: all), in alphabetical order."""
    smallest = min(sizes.values())
    check(
        limit == 0 or limit >= smallest,
        f"world.max_entities is {limit}; the smallest neighbourhood has {smallest} entities (0 takes all)",
    )
    kept: list[str] = []
    total = 0
    for name in _shuffle(sizes, "choose", seed):
        if limit == 0 or total + sizes[name] <= limit:
            kept.append(name)
            total += sizes[name]
    return sorted(kept)


def _split(sizes: Mapping[str, int], heldout_fraction: float, seed: int) -> dict[str, str]:
    """Per kind of entity, so that each is held out in the same proportion."""
    split = dict.fromkeys(sizes, "train")
    for kind in sorted({name.split("/")[0] for name in sizes}):
        names = [name for name in sizes if name.split("/")[0] == kind]
        target = heldout_fraction * sum(sizes[name] for name in names)
        held = 0
        for name in _shuffle(names, "split", seed):
            if abs(held + sizes[name] - target) < abs(held - target):
                split[name] = "heldout"
                held += sizes[name]
    return split
