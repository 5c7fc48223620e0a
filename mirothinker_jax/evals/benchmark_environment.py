"""A benchmark as an Environment: its questions, the tools of the config, and who grades it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mirothinker_jax.config import TasksConfig
from mirothinker_jax.config_tree import check
from mirothinker_jax.evals.benchmarks import read_benchmark
from mirothinker_jax.evals.scoring import grading, open_scorer
from mirothinker_jax.tasks.environments import place
from mirothinker_jax.tasks.types import Task
from mirothinker_jax.tools.spec import Tool


class BenchmarkEnvironment:
    """The benchmark `name` in the file `path`. What it holds is in `questions`, how it is graded in `settings`, and who
    grades in `scorer`. The leak guard's words are for whoever builds the tools (catalogue.BENCHMARKS[name].refuse).

    Raises ConfigError for a judge that is missing or cannot be used, DataError for a file that cannot be read.
    """

    def __init__(self, name: str, path: str, settings: TasksConfig, tools: Callable[[], Sequence[Tool]]):
        self.settings = grading(name, settings)
        self.scorer = open_scorer(name, self.settings)
        self.grader = self.scorer.grader
        self.questions = read_benchmark(name, path)
        self._tools = tools

    def tasks(self, split: str, count: int, seed: int) -> list[Task]:
        """All in the order of the file, or where `count` is less, so many of them in an order that `seed` decides.
        Raises ConfigError for the split "train": what is trained on measures nothing."""
        check(split == "heldout", "a benchmark has no questions to train on; give tasks.train")
        found = list(self.questions.tasks)
        return found if count >= len(found) else sorted(found, key=lambda task: place(task, seed))[:count]

    def tools(self) -> Sequence[Tool]:
        """Those of the config."""
        return self._tools()

    def close(self) -> None:
        """Nothing was started."""
