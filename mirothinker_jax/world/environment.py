"""The embedded web as an environment: chain questions, tools on its pages, answers graded by rule.

A task's metadata has its depth (`hops`) and its way (`start`, `reads`), which the scripted expert follows and no
model is shown.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from mirothinker_jax.config import WorldConfig
from mirothinker_jax.tasks.types import Grader, Task
from mirothinker_jax.tools.spec import Tool
from mirothinker_jax.world.facts import World, load_world
from mirothinker_jax.world.question import Question
from mirothinker_jax.world.questions import make_questions


class WorldEnvironment:
    """Questions of depth 0 … world.max_hops, and the tools that `tools` gives."""

    prompt_file = ""

    def __init__(self, settings: WorldConfig, seed: int, grader: Grader, tools: Callable[[], Sequence[Tool]]):
        self.grader = grader
        self._settings, self._seed, self._tools = settings, seed, tools

    @functools.cached_property
    def _world(self) -> World:
        return load_world(self._settings, self._seed)

    def tasks(self, split: str, count: int, seed: int) -> Sequence[Task]:
        """`count` tasks, as evenly over the depths as it allows. Raises ConfigError where the world is too small."""
        depths, attributes = range(self._settings.max_hops + 1), self._settings.attributes
        questions = make_questions(self._world, split, depths, count, seed, attributes)
        return [task(question) for question in questions]

    def tools(self) -> Sequence[Tool]:
        """Those of the config."""
        return self._tools()

    def close(self) -> None:
        """Nothing was started."""


def task(question: Question) -> Task:
    """The question as a task."""
    reads = [*question.relations, question.attribute]
    metadata = {"hops": question.hops, "start": question.start, "reads": reads}
    return Task(question.id, question.text, question.answer, metadata=metadata)
