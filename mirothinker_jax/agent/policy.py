"""What the agent loop needs of whoever writes its turns: a model's sampler, or a scripted expert."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

from mirothinker_jax.config import EvalConfig
from mirothinker_jax.trajectory.types import Turn as Turn


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn, in this order: penalty, temperature, top-k, top-p of what is left, min-p."""

    temperature: float = 1.0  # 0: the most likely token
    top_p: float = 1.0  # nucleus sampling; 1: off
    top_k: int = 0  # of the k most likely tokens only; 0: off
    min_p: float = 0.0  # of tokens at least this fraction as likely as the most likely one; 0: off
    repetition_penalty: float = 1.0  # divides the logits of what the context holds already; 1: off

    def __post_init__(self):
        for name, good, allowed in (
            ("temperature", 0 <= self.temperature < float("inf"), "0 or more; 0 is greedy"),
            ("top_p", 0 < self.top_p <= 1, "0 < x ≤ 1; 1 is off"),
            ("top_k", self.top_k >= 0, "0 or more; 0 is off"),
            ("min_p", 0 <= self.min_p <= 1, "0 ≤ x ≤ 1; 0 is off"),
            ("repetition_penalty", 0 < self.repetition_penalty < float("inf"), "more than 0; 1 is off"),
        ):
            if not good:
                raise ValueError(f"sampling.{name} is {getattr(self, name)}; give {allowed}")

    def settings(self) -> frozenset[str]:
        """Names of the settings that differ from drawing from the model's own distribution."""
        return frozenset(f.name for f in fields(self) if getattr(self, f.name) != f.default)


def evaluation_sampling(settings: EvalConfig) -> Sampling:
    """How asking and evaluating draw tokens."""
    return Sampling(settings.temperature, settings.top_p, repetition_penalty=settings.repetition_penalty)


@dataclass(frozen=True)
class Capabilities:
    """What an engine can do.

    Attributes:
      sampling: the fields of Sampling that it honours.
      raw_logprobs: whether turns have them.
      routes: whether turns can have them.
      stop_ids: the most that a request may name.
      stop_strings: whether a request may name any.
    """

    sampling: frozenset[str] = frozenset(f.name for f in fields(Sampling))
    raw_logprobs: bool = True
    routes: bool = False
    stop_ids: int = 0
    stop_strings: bool = False

    def check(self, sampling: Sampling, engine: str) -> None:
        """Raises ValueError where the engine of this name cannot draw tokens so."""
        if missing := sorted(sampling.settings() - self.sampling):
            name = missing[0]
            raise ValueError(
                f"sampling.{name} is {getattr(sampling, name)}, which {engine} cannot do; "
                f"leave it at {getattr(Sampling(), name)}, or use an engine that can"
            )

    def check_request(self, request: Request, engine: str) -> None:
        """Raises ValueError where the engine of this name cannot give the turn that is asked for."""
        self.check(request.sampling, engine)
        if len(request.stop_ids) > self.stop_ids:
            raise ValueError(
                f"stop_ids are {len(request.stop_ids)}, and {engine} takes at most {self.stop_ids}; name fewer"
            )
        if request.stop_strings and not self.stop_strings:
            raise ValueError(
                f"stop_strings are {request.stop_strings}, which {engine} cannot look for; leave them out, or use an "
                "engine that can"
            )


def check_trainable(sampling: Sampling) -> None:
    """Raises ValueError unless tokens are drawn from the model's own distribution, which is the one that is trained.

    Another one has another support or another shape (a repetition penalty: of the history), so the ratio of the
    trainer's probability to the sampler's would not be one for equal parameters.
    """
    if names := sorted(sampling.settings()):
        name = names[0]
        raise ValueError(
            f"sampling.{name} is {getattr(sampling, name)}; episodes to train on are drawn from the model's own "
            f"distribution: leave it at {getattr(Sampling(), name)}"
        )


@dataclass(frozen=True)
class Request:
    """A turn to sample.

    Attributes:
      session: names the conversation, for whoever keeps what it computed of it.
      ids: the whole context, up to where the turn begins.
      max_tokens: the most that may be sampled.
      seed: equal requests with equal seeds give equal turns. Its lowest 32 bits count.
      stop_ids: tokens that end the turn beside the model's own, and are its last.
      stop_strings: texts that end the turn; the token that completes one is its last.
    """

    session: str
    ids: Sequence[int]
    max_tokens: int
    seed: int = 0
    sampling: Sampling = Sampling()
    stop_ids: tuple[int, ...] = ()
    stop_strings: tuple[str, ...] = ()

    def __post_init__(self):
        if "" in self.stop_strings:
            raise ValueError("stop_strings has an empty one, which ends nothing; leave it out")


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
