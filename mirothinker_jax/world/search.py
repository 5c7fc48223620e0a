"""The embedded web's search engine: BM25 over titles, names and places (tantivy, in memory)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import tantivy

from mirothinker_jax.world.entity import Entity
from mirothinker_jax.world.facts import World

_WRITER_BYTES = 15_000_000  # the least that tantivy accepts; the index is a few hundred kilobytes
_FIELDS = {"title": 3.0, "name": 2.0, "place": 1.0}  # with their weight in a match


@dataclass(frozen=True)
class Hit:
    """One result of a search."""

    id: str
    url: str
    title: str
    snippet: str


def snippet(entity: Entity) -> str:
    """What a result page says about the entity besides its title."""
    facts = entity.facts
    if "city" in facts:
        return f"{facts['name']}, {facts['city']}, {facts['country']}"
    return f"{entity.title} in figures: area, population, borders, capital"


class SearchIndex:
    """Finds entities by words. `dead(id)` says whose primary address does not work: a mirror follows it."""

    def __init__(self, world: World, dead: Callable[[str], bool] = lambda entity_id: False):
        self._world = world
        self._dead = dead
        self._by_title: dict[str, str] = {}
        self._homes: dict[str, list[Entity]] = {}
        builder = tantivy.SchemaBuilder()
        builder.add_text_field("id", stored=True, tokenizer_name="raw")
        for name in _FIELDS:
            builder.add_text_field(name)
        self._index = tantivy.Index(builder.build())
        writer = self._index.writer(_WRITER_BYTES, 1)
        for entity in world.entities.values():
            self._homes.setdefault(world.neighbourhood[entity.id], []).append(entity)
            for name in (entity.title, *entity.aliases):
                self._by_title.setdefault(name.casefold(), entity.id)
            place = " ".join(entity.facts.get(key, "") for key in ("city", "country", "capital"))
            writer.add_document(
                tantivy.Document(id=entity.id, title=entity.title, name=" ".join(entity.aliases), place=place)
            )
        writer.commit()
        writer.wait_merging_threads()
        self._index.reload()
        self._searcher = self._index.searcher()

    def search_ranked(self, text: str, num: int) -> list[Entity]:
        """At most `num` entities, the best first; one whose title or name IS the text before all others."""
        exact = self._by_title.get(" ".join(text.split()).strip('"').casefold())
        ids = [exact] if exact else []
        words = "".join(c if c.isalnum() else " " for c in text)
        if words.strip():
            query, _ = self._index.parse_query_lenient(words, list(_FIELDS), field_boosts=_FIELDS)
            for _, address in self._searcher.search(query, num + 1).hits:
                (found,) = self._searcher.doc(address)["id"]
                if found != exact:
                    ids.append(found)
        return [self._world.entities[i] for i in ids[:num]]

    def similar(self, text: str) -> list[Entity]:
        """Entities that a misleading result page could show for the text: the best hit's neighbours."""
        best = self.search_ranked(text, 1)
        if not best:
            return []
        home = self._homes[self._world.neighbourhood[best[0].id]]
        return [e for e in home if e.id != best[0].id]

    def hits(self, entities: list[Entity], num: int) -> list[Hit]:
        """Result lines for the entities; where an address is dead, its mirror comes right after it."""
        found = []
        for entity in entities:
            urls = [entity.url, entity.mirror_url] if self._dead(entity.id) else [entity.url]
            found += [Hit(entity.id, url, entity.title, snippet(entity)) for url in urls]
        return found[:num]

    def query(self, text: str, num: int) -> list[Hit]:
        """At most `num` hits, the best first."""
        return self.hits(self.search_ranked(text, num), num)
