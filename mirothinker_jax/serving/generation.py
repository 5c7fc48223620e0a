"""A turn in pieces, over an engine that only gives whole ones.

A piece is a short turn in the context of those before it. The engine keeps what it has computed, and a token's random
number follows from the turn's seed and the token's place, so pieces sample what one long turn would. Streams are made
so, and stops that the engine cannot look for itself (Capabilities) are found so, a piece later at most.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

from mirothinker_jax.agent.policy import EngineError, Request, Sampling, Turn
from mirothinker_jax.serving.errors import ApiError, bad
from mirothinker_jax.serving.policy import Served

PIECE_TOKENS = 8

_sessions = itertools.count()


@dataclass(frozen=True)
class Asked:
    """What to sample.

    Attributes:
      ids: the context.
      stops: strings that end the turn, and are not part of its text.
      stop_ids: tokens that end it beside the model's own, and are its last.
      whole: in one piece where no stop needs to be looked for.
    """

    ids: tuple[int, ...]
    max_tokens: int
    seed: int
    sampling: Sampling
    stops: tuple[str, ...] = ()
    stop_ids: frozenset[int] = frozenset()
    whole: bool = True


@dataclass
class Answer:
    """A turn so far. `finish`: "stop", "length", "abort", or "" while it goes on. `stop`: what it stopped at, beside
    the model's own end tokens."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    raw_logprobs: list[float] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    finish: str = ""
    stop: int | str | None = None
    text: str = ""

    def add(self, turn: Turn, version: int) -> None:
        self.tokens += turn.tokens
        self.logprobs += turn.logprobs
        self.raw_logprobs += turn.raw_logprobs
        self.versions += turn.versions or [version] * len(turn.tokens)

    def cut(self, count: int) -> None:
        """Keeps the first `count` tokens."""
        for values in (self.tokens, self.logprobs, self.raw_logprobs, self.versions):
            del values[count:]


def check_room(served: Served, ids: Sequence[int], max_tokens: int | None) -> int:
    """How many tokens may be sampled; what the context leaves where `max_tokens` is None. Raises ApiError."""
    room = served.context_tokens - len(ids)
    if room < 1 or (max_tokens or 1) > room:
        asked = f" and asks for {max_tokens}" if max_tokens else ""
        raise bad(
            f"this model's context length is {served.context_tokens} tokens, and the request has {len(ids)}{asked}; "
            "shorten it, or serve the model with a larger --config.agent.context_tokens",
            code="context_length_exceeded",
        )
    return room if max_tokens is None else max_tokens


async def generate(served: Served, asked: Asked) -> AsyncGenerator[Answer, None]:
    """The turn so far, piece by piece: the same object each time, the last time with its `finish`. Ending the iteration
    early ends the turn.

    Raises ApiError.
    """
    try:
        can = served.engine.capabilities
        can.check(asked.sampling, "this model's engine")
    except ValueError as error:
        raise bad(str(error)) from None
    session, answer = f"http-{next(_sessions)}", Answer()
    stop_ids = tuple(sorted(asked.stop_ids - served.end_ids))
    known = len(stop_ids) <= can.stop_ids and (can.stop_strings or not asked.stops)
    whole, stops = asked.whole and known, {"stop_ids": stop_ids, "stop_strings": asked.stops} if known else {}
    try:
        while not answer.finish:
            left = asked.max_tokens - len(answer.tokens)
            size = left if whole else min(left, PIECE_TOKENS)
            ids = (*asked.ids, *answer.tokens)
            request = Request(session, ids, size, asked.seed, asked.sampling, **stops)
            turn = await served.engine.generate(request)
            answer.add(turn, served.version)
            _finish(served, asked, answer, turn)
            yield answer
    except EngineError as error:
        raise ApiError(503, str(error)) from None
    finally:
        served.engine.forget(session)


def _finish(served: Served, asked: Asked, answer: Answer, turn: Turn) -> None:
    """Sets what the answer says by now, and whether it ends."""
    first = len(answer.tokens) - len(turn.tokens)
    found = next((i for i in range(first, len(answer.tokens)) if answer.tokens[i] in asked.stop_ids), None)
    if found is not None and answer.tokens[found] not in served.end_ids:
        answer.cut(found + 1)
        answer.stop = answer.tokens[found]
    if found is not None or turn.complete:
        answer.finish = "stop"
    elif len(answer.tokens) >= asked.max_tokens:
        answer.finish = "length"
    said = answer.tokens[:-1] if answer.finish == "stop" else answer.tokens
    answer.text = served.codec.decode(said)
    for stop in asked.stops:
        place = answer.text.find(stop)
        if place >= 0:
            answer.text, answer.finish, answer.stop = answer.text[:place], "stop", stop
    if answer.stop in asked.stops:  # tokens that say nothing of what is left
        count = next(
            n for n in range(len(said) + 1) if len(served.codec.decode(said[:n])) >= len(answer.text)
        )
        answer.cut(max(count, 1))
