"""The environment that a config names: the embedded world, files of questions, or a module of the user's own.

The world and the tools are given from outside: this room knows neither.
"""

from __future__ import annotations

import hashlib
import inspect
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, cast

from mirothinker_jax.config import Config, ConfigError, TasksConfig, check
from mirothinker_jax.data.strict_json import DataError
from mirothinker_jax.tasks.files import Located, read_tasks, refuse_shared
from mirothinker_jax.tasks.graders import by_function, open_grader, reference_problem
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
    return UserEnvironment(source, config)


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
        return sorted(self._tasks[split], key=lambda task: place(task, seed))[:count]

    def tools(self) -> Sequence[Tool]:
        """Those of the config."""
        return self._tools()

    def close(self) -> None:
        """Nothing was started."""


def place(task: Task, seed: int) -> bytes:
    """What to sort tasks by for an order that `seed` decides, and in which an added task moves no other."""
    return hashlib.blake2b(f"{seed}:{task.id}".encode(), digest_size=16).digest()


class UserEnvironment:
    """An Environment of the user's own: checked when it is opened, its tasks when they are asked for. Its grader may be
    sync or async and may raise, as any function of the user's.

    Raises ConfigError where its factory cannot be called, or makes something else.
    """

    def __init__(self, name: str, config: Config):
        factory = load_function("tasks.environment", name)
        try:
            environment = factory(config)
        except (ConfigError, DataError):
            raise
        except (Exception, SystemExit) as error:
            raise ConfigError(f"tasks.environment: {name} failed: {reason(error)}") from error
        _check_methods(environment, name)
        self._name, self._environment = name, cast(Environment, environment)
        self.grader = by_function(environment.grader, f"{name}.grader", config.tasks.grader_timeout_s)

    def tasks(self, split: str, count: int, seed: int) -> list[Task]:
        """The environment's. Raises ConfigError for what are no tasks, too many, or two of one id."""
        found = list(self._environment.tasks(split, count, seed))
        where = f"tasks.environment: {self._name}: tasks({split!r}, {count}, {seed})"
        wrong = next((task for task in found if not isinstance(task, Task)), None)
        check(wrong is None, f"{where} returned {type(wrong).__name__}; return Task(id, question, answer, …)")
        check(
            min(1, count) <= len(found) <= count, f"{where} returned {len(found)} tasks; return 1 … {count}"
        )
        ids = [task.id for task in found]
        twice = next((one for one, uses in Counter(ids).items() if uses > 1), None)
        check(twice is None, f"{where} returned two tasks of the id {twice!r}; each needs its own")
        return found

    def tools(self) -> Sequence[Tool]:
        """The environment's."""
        return self._environment.tools()

    def close(self) -> None:
        """Closes the environment."""
        self._environment.close()


def _check_methods(environment: Any, name: str) -> None:
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
                f"{what}, whose {method} does not take {arguments} arguments: {error}"
            ) from None
        except ValueError:  # of a builtin, which does not say what it takes
            continue
