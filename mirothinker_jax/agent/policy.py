"""What the agent loop needs of whoever writes its turns: a model's sampler, or a scripted expert."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class Turn:
    """One sampled assistant turn. `complete`: it ended by one of the model's end tokens, which is its last.

    `routes`, where they are recorded: int16 [n, L, k], the experts of the n tokens that were fed to the model for this
    turn. The last token of a turn is fed with what follows it.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    complete: bool
    routes: np.ndarray | None = field(default=None, compare=False)


class Session(Protocol):
    """One conversation, token in, token out; what was fed and sampled stays in its cache."""

    async def sample(self, tokens: Sequence[int], max_tokens: int) -> Turn:
        """Feeds `tokens` after all that came before and samples a turn of at most max_tokens."""
        ...

    def close(self) -> None:
        """Ends the conversation and frees its room."""
        ...


class Policy(Protocol):
    """Whoever writes turns: a sampler or the scripted expert."""

    async def open(self, seed: int) -> Session:
        """Waits for room. Equal seeds and equal feeds give equal turns."""
        ...


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
