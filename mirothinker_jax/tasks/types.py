"""What an episode is about, and what is said of it afterwards: tasks, verdicts, and where both come from.

An *environment* is tasks by split, tools, a grader and the words of a system prompt. The embedded world, a file of
questions and a module of the user's own are three of them, with equal rights.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from mirothinker_jax.tools.spec import Tool

SPLITS = ("train", "heldout")


@dataclass(frozen=True)
class Task:
    """A question.

    Attributes:
      id: of its own among the tasks of a run.
      answer: the reference; "" where there is none, as when somebody asks.
      files: paths of attachments, which the agent's files tool shows.
      metadata: whatever else its record says, as JSON values; {"hops": 3}.
    """

    id: str
    question: str
    answer: str = ""
    files: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)


class Attempt(Protocol):
    """What a grader sees of an episode (trajectory.types.Trajectory is one)."""

    @property
    def id(self) -> str: ...

    @property
    def answer(self) -> str | None:
        """What the last box holds; None where the episode ended without an answer."""
        ...

    def messages(self) -> list[dict[str, str]]:
        """`role` and `content` of all that was said, in its order."""
        ...


@dataclass(frozen=True)
class Verdict:
    """What a grader says. `correct` is None where it could not judge: it is asked again, and an episode that stays
    unjudged is left out, never taken for a wrong one. `terms` are parts of the reward by name."""

    correct: bool | None
    reason: str = ""
    terms: Mapping[str, float] = field(default_factory=dict)


Grader = Callable[[Task, Attempt], Awaitable[Verdict]]


class Environment(Protocol):
    """Where tasks come from, and what belongs to them."""

    grader: Grader

    def tasks(self, split: str, count: int, seed: int) -> Sequence[Task]:
        """At most `count` tasks of "train" or "heldout", in an order that `seed` decides. The same for the same
        arguments, on every process. Raises ConfigError where there are none."""
        ...

    def tools(self) -> Sequence[Tool]:
        """What the agent may call. Asked once; raises ConfigError for what cannot be had."""
        ...

    def close(self) -> None:
        """Stops what was started."""
        ...
