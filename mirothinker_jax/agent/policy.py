"""What the agent loop needs of whoever writes its turns: a model's sampler, or a scripted expert."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Turn:
    """One sampled assistant turn. `complete`: it ended by the end-of-turn token, which is its last."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    complete: bool


class Session(Protocol):
    """One conversation, token in, token out; what was fed and sampled stays in its cache."""

    async def sample(self, tokens: Sequence[int], max_tokens: int) -> Turn:
        """Feeds `tokens` after all that came before and samples a turn of at most max_tokens."""
        ...

    def close(self) -> None: ...


class Policy(Protocol):
    async def open(self, seed: int) -> Session:
        """Waits for room. Equal seeds and equal feeds give equal turns."""
        ...


class Chat(Protocol):
    """The only maker of chat tokens (data/chat.py), as the agent sees it."""

    def prompt(self, system: str | None, user: str) -> Sequence[int]: ...

    def observation(self, texts: Sequence[str]) -> Sequence[int]: ...
