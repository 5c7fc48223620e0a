"""The environment that a config names: the embedded world, files of questions, or a module of the user's own.

The world and the tools are given from outside: this room knows neither.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Sequence
from typing import cast

from mirothinker_jax.config import Config, ConfigError, TasksConfig, check
from mirothinker_jax.tasks.files import Located, read_tasks, refuse_shared
from mirothinker_jax.tasks.graders import open_grader, reference_problem
from mirothinker_jax.tasks.types import SPLITS, Environment, Task
from mirothinker_jax.tasks.user_code import load_function, reason
from mirothinker_jax.tools.spec import Tool

# Method of an Environment → how many positional arguments it is called with.
_METHODS = {"grader": 2, "tasks": 3, "tools": 0, "close": 0}


def open_environment(
    config: Config,
    world: Callable[[Config], Environment],
    tools: Callable[[Config], Sequence[Tool]],
) -> Environment:
    """What config.tasks.environment stands for. The caller closes it.

    Args:
      world: opens the embedded world.
      tools: those of config.tools, for questions from files.

    Raises:
      ConfigError or DataError, one line: files, a grader or a module that cannot be used.
    """
    source = config.tasks.source
    if source == "world":
        return world(config)
    if source == "files":
        return QuestionFiles(config.tasks, lambda: tools(config))
    return _of_module(source, config)


class QuestionFiles:
    """An Environment: questions of files, and the tools of the config.

    Raises ConfigError for a grader, DataError for a file that cannot be used.
    """

    def __init__(self, settings: TasksConfig, tools: Callable[[], Sequence[Tool]]):
        self.grader = open_grader(settings)
        self._tools = tools

        def read(path: str, key: str) -> list[Located]:
            return read_tasks(path, key, lambda answer: reference_problem(settings, answer)) if path else []

        found = {split: read(getattr(settings, split), f"tasks.{split}") for split in SPLITS}
        refuse_shared(found["train"], found["heldout"])
        self._tasks = {split: [task for task, _ in located] for split, located in found.items()}

    def tasks(self, split: str, count: int, seed: int) -> list[Task]:
        """The first `count` tasks of `split` in an order that `seed` decides, all where there are fewer. A larger
        count goes on in the same order, and an added task moves no other. Raises ConfigError where there is no file.
        """
        check(
            bool(self._tasks[split]),
            f"tasks.{split} is empty, and questions of it are asked for; name a file of them",
        )
        return sorted(self._tasks[split], key=lambda task: _place(task, seed))[:count]

    def tools(self) -> Sequence[Tool]:
        """Those of the config."""
        return self._tools()

    def close(self) -> None:
        """Nothing was started."""


def _place(task: Task, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}:{task.id}".encode(), digest_size=16).digest()


def _of_module(name: str, config: Config) -> Environment:
    """What the user's factory makes. Raises ConfigError where it cannot be called, or makes something else."""
    factory = load_function("tasks.environment", name)
    try:
        environment = factory(config)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"tasks.environment: {name} failed: {reason(error)}") from error
    what = f"tasks.environment: {name} returned {type(environment).__name__}"
    for method, arguments in _METHODS.items():
        function = getattr(environment, method, None)
        check(
            callable(function),
            f"{what}, which has no {method} that can be called; tasks/types.py says what an Environment has",
        )
        assert function is not None
        try:
            inspect.signature(function).bind(*[None] * arguments)
        except TypeError as error:
            raise ConfigError(
                f"{what}, whose {method} cannot be called with {arguments} arguments: {error}"
            ) from None
        except ValueError:  # of a builtin, which does not say what it takes
            continue
    return cast(Environment, environment)
