"""The embedded web as an environment: chain questions, tools on its pages, answers graded by rule.

A task's metadata has its depth (`hops`) and its way (`start`, `reads`), which the scripted expert follows and no model is
shown.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence

from mirothinker_jax.config import ToolsConfig, WorldConfig
from mirothinker_jax.tasks.types import Grader, Task
from mirothinker_jax.tools.build import build_tools, key_env
from mirothinker_jax.tools.spec import Tool
from mirothinker_jax.world.facts import World, load_world
from mirothinker_jax.world.questions import Question, make_questions
from mirothinker_jax.world.server import WorldServer


class WorldEnvironment:
    """Questions of depth 0 … world.max_hops. The web is served from when the tools are asked for until `close`."""

    prompt_file = ""

    def __init__(self, settings: WorldConfig, tools: ToolsConfig, seed: int, grader: Grader):
        self.grader = grader
        self._settings, self._tools, self._seed = settings, tools, seed
        self._server: WorldServer | None = None

    @functools.cached_property
    def _world(self) -> World:
        return load_world(self._settings, self._seed)

    def tasks(self, split: str, count: int, seed: int) -> Sequence[Task]:
        """`count` tasks, as evenly over the depths as it allows. Raises ConfigError where the world is too small."""
        depths, attributes = range(self._settings.max_hops + 1), self._settings.attributes
        questions = make_questions(self._world, split, depths, count, seed, attributes)
        return [task(question) for question in questions]

    def tools(self) -> Sequence[Tool]:
        """On the embedded web, or on the open one where a search service of the user's own is named. Raises
        ConfigError."""
        if self._tools.search_backend != "world":
            return build_tools(self._tools, None, os.environ.get(key_env(self._tools), ""))
        if self._server is None:
            self._server = WorldServer(self._settings, self._seed)
            self._server.start()
        return build_tools(self._tools, self._server.proxy_url, "")

    def close(self) -> None:
        if self._server is not None:
            self._server.stop()
            self._server = None


def task(question: Question) -> Task:
    """The question as a task."""
    reads = [*question.relations, question.attribute]
    metadata = {"hops": question.hops, "start": question.start, "reads": reads}
    return Task(question.id, question.text, question.answer, metadata=metadata)
