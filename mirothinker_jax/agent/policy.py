"""What the agent loop needs of whoever writes its turns: a model's sampler, or a scripted expert."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mirothinker_jax.trajectory.types import Turn as Turn


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn."""

    temperature: float = 1.0  # 0: the most likely token
    top_p: float = 1.0  # nucleus sampling; 1: off
    repetition_penalty: float = 1.0  # divides the logits of what the context holds already; 1: off


@dataclass(frozen=True)
class Request:
    """A turn to sample.

    Attributes:
      session: names the conversation, for whoever keeps what it computed of it.
      ids: the whole context, up to where the turn begins.
      max_tokens: the most that may be sampled.
      seed: equal requests with equal seeds give equal turns.
    """

    session: str
    ids: Sequence[int]
    max_tokens: int
    seed: int = 0
    sampling: Sampling = Sampling()


class Engine(Protocol):
    """Whoever writes turns: a model's sampler, a server, or the scripted expert."""

    async def generate(self, request: Request) -> Turn:
        """A turn that follows the context. It may wait for room.

        Raises EngineError where the service behind it does not answer.
        """
        ...

    def forget(self, session: str) -> None:
        """The conversation is over: what was kept of it may go. Harmless for one that was never seen."""
        ...


class EngineError(Exception):
    """The engine gave no turn, and it is not the policy's fault."""


class Chat(Protocol):
    """The only maker of chat tokens (data/chat.py), as the agent sees it."""

    call_format: str  # one of WIRES (agent/wire/formats.py)

    def prompt(
        self, system: str | None, user: str, functions: Sequence[Mapping[str, Any]] = ()
    ) -> Sequence[int]:
        """Ids up to where the first turn begins. `functions` are JSON schemas that the system message lists."""
        ...

    def observation(
        self, texts: Sequence[str], end: int | None = None, request: str | None = None
    ) -> Sequence[int]:
        """Ids of a turn's results, and of what we ask for after them, up to where the next turn begins. `end` is the
        last token of the turn."""
        ...
