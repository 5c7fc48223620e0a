"""What is served: an engine, and what turns text into its tokens and back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from mirothinker_jax.agent.policy import Capabilities, Request, Turn
from mirothinker_jax.data.tokenizer import TextCodec


class ServedEngine(Protocol):
    """An engine that says what it can do."""

    @property
    def capabilities(self) -> Capabilities: ...

    async def generate(self, request: Request) -> Turn: ...

    def forget(self, session: str) -> None: ...


@dataclass
class Served:
    """A policy behind HTTP.

    Attributes:
      name: of the model, for clients.
      servers: of the tools that the model was trained with, by the tool's name.
      call_format: how it writes calls, one of CALL_FORMATS.
      end_ids: each ends a turn.
      context_tokens: the most that a context with its turn may take.
      vocab_size: ids lie below it.
      reload: takes the weights of a folder, as version `n`; None where they cannot be changed.
      weights_dir: what such a folder must lie in.
      label: of the weights now; `labels` are of versions, as the engine counts them.
    """

    name: str
    engine: ServedEngine
    codec: TextCodec
    servers: Mapping[str, str]
    call_format: str
    end_ids: frozenset[int]
    context_tokens: int
    vocab_size: int
    reload: Callable[[Path, int], Awaitable[None]] | None = None
    weights_dir: Path | None = None
    label: str = "initial"
    version: int = 0
    labels: dict[int, str] = field(default_factory=lambda: {0: "initial"})

    def name_weights(self, label: str) -> None:
        """Calls the weights now, and the tokens that they sampled, so."""
        self.label = self.labels[self.version] = label
