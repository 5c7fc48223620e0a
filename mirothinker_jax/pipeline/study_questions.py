"""What the study asks, and the ways of telling it: questions and walks of the held-out part of the embedded world."""

from __future__ import annotations

import dataclasses
import functools
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mirothinker_jax.agent.expert import SCRAPE, SEARCH, Plan
from mirothinker_jax.agent.wire.formats import WIRES
from mirothinker_jax.config import Config
from mirothinker_jax.tasks.types import Task
from mirothinker_jax.tools.spec import ToolCall
from mirothinker_jax.world.entity import Entity
from mirothinker_jax.world.environment import task
from mirothinker_jax.world.facts import World, load_world
from mirothinker_jax.world.question import Question
from mirothinker_jax.world.questions import make_questions
from mirothinker_jax.world.walks import PLAIN_HOPS

SPLIT = "heldout"
BUDGET_NOTE = "You may make at most {} calls."


class Questions:
    """Of a run's world. Equal configs give equal ones."""

    def __init__(self, config: Config):
        self._config = config
        self._attributes = config.world.attributes

    @functools.cached_property
    def world(self) -> World:
        """Its facts."""
        return load_world(self._config.world, self._config.seed)

    @functools.cached_property
    def usual(self) -> list[Question]:
        """As the run trains on them, of depth 0 … world.max_hops."""
        c = self._config
        depths = range(c.world.max_hops + 1)
        return make_questions(self.world, SPLIT, depths, c.study.questions, c.seed, self._attributes)

    def walks(self, hops: int) -> list[Question]:
        """Of one depth."""
        c = self._config
        return make_questions(self.world, SPLIT, (hops,), c.study.walks, c.seed, self._attributes)

    def way(self, question: Question) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The last parts of its pages' addresses, and what is read on each."""
        return question.path, (*question.relations, question.attribute)

    def way_of(self, metadata: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The same of an episode, by its task's `start` and `reads`."""
        pages, reads = [self._by_title[metadata["start"]]], tuple(metadata["reads"])
        for relation in reads[:-1]:
            pages.append(self.world.entities[pages[-1].links[relation]])
        return tuple(page.id for page in pages), reads

    @functools.cached_property
    def _by_title(self) -> dict[str, Entity]:
        return {page.title: page for page in self.world.entities.values()}

    def first_turns(self, question: Question, steps: int, call_format: str) -> list[str]:
        """What the expert says until `steps` pages are read, on a web where nothing goes wrong; of 0, nothing."""
        if steps == 0:
            return []
        wire, reads = WIRES[call_format], (*question.relations, question.attribute)
        thoughts = Plan(question.start, reads).thoughts()
        said = [("search", ToolCall(*SEARCH, {"q": question.start}))]
        for page, wanted, thought in zip(question.path[:steps], reads, thoughts, strict=False):
            url = self.world.entities[page].url
            said.append((thought, ToolCall(*SCRAPE, {"url": url, "info_to_extract": wanted})))
        return [f"<think>{thought}</think>{wire.render([call])}" for thought, call in said]

    def with_pages(self, question: Question) -> str:
        """The question, and all pages that its way needs among as many that it does not."""
        rng = random.Random(f"{self._config.seed}|pages|{question.id}")
        needed = [self.world.entities[page] for page in dict.fromkeys(question.path)]
        others = [page for page in self._neighbours(needed[0]) if page not in needed]
        pages = [*needed, *rng.sample(others, min(len(needed), len(others)))]
        rng.shuffle(pages)
        return "\n\n".join([question.text, *(self._page(page, question, rng) for page in pages)])

    def other(self, url: str, wanted: str) -> str | None:
        """Another page of the neighbourhood, on which the same is told otherwise; None where there is none."""
        page = self.world.entities.get(url.rpartition("/")[2])
        if page is None:
            return None
        told = page.links.get(wanted) or page.facts.get(wanted)
        others = [
            other
            for other in self._neighbours(page)
            if other.id != page.id
            and (other.links.get(wanted) or other.facts.get(wanted)) not in (None, told)
        ]
        if told is None or not others:
            return None
        return random.Random(f"{self._config.seed}|other|{page.id}|{wanted}").choice(others).url

    def _neighbours(self, page: Entity) -> list[Entity]:
        home = self.world.neighbourhood[page.id]
        return [e for e in self.world.of_split(SPLIT) if self.world.neighbourhood[e.id] == home]

    def _page(self, page: Entity, question: Question, rng: random.Random) -> str:
        """As a result of reading it whole would begin: its links, and the fact that is asked for. Of more links than
        the facts of any page give, those of the way and some others."""
        steps = zip(question.path, question.relations, strict=False)
        needed = {relation for id, relation in steps if id == page.id}
        others = [relation for relation in page.links if relation not in needed]
        shown = needed | set(rng.sample(others, min(len(others), max(0, PLAIN_HOPS - len(needed)))))
        links = [
            f"{r}: [{self.world.entities[to].title}]({self.world.entities[to].url})"
            for r, to in page.links.items()
            if r in shown
        ]
        attribute = question.attribute
        facts = [f"{attribute}: {page.facts[attribute]}"] if attribute in page.facts else []
        return "\n".join([page.title, *links, *facts])


def tasks(questions: Sequence[Question], text: Callable[[Question], str] | None = None) -> list[Task]:
    """The questions as tasks, in other words where `text` has them."""
    plain = [task(question) for question in questions]
    if text is None:
        return plain
    return [dataclasses.replace(t, question=text(q)) for t, q in zip(plain, questions, strict=True)]


def announced(asked: Sequence[Task], calls: int) -> list[Task]:
    """The tasks, whose text says how many calls there are."""
    return [dataclasses.replace(t, question=f"{t.question} {BUDGET_NOTE.format(calls)}") for t in asked]


def partners(asked: Sequence[Task]) -> Mapping[str, str]:
    """Task → another one of the same depth where there is one, for shuffled feedback; nobody's partner is itself, as
    long as there are two tasks."""
    order = sorted(asked, key=lambda t: (t.metadata["hops"], t.id))
    groups: dict[int, list[str]] = {}
    for t in order:
        groups.setdefault(t.metadata["hops"], []).append(t.id)
    everyone = [t.id for t in order]
    pairs = {}
    for group in groups.values():
        ring = group if len(group) > 1 else everyone
        pairs |= {one: ring[(ring.index(one) + 1) % len(ring)] for one in group}
    return pairs
