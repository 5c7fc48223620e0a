"""A turn under way: what is known of its context, what was sampled, and what is still unread on the device."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from mirothinker_jax.agent.policy import Request, Turn
from mirothinker_jax.rollout.local.pages import Lease
from mirothinker_jax.rollout.local.schedule import View
from mirothinker_jax.rollout.local.stops import Decode, StopStrings


@dataclass(eq=False)
class Running:
    """A request that is being fed or sampled.

    Attributes:
      ids: int32 [context + max_tokens], known up to `known`.
      shard, row, lease: where it is; row −1: it waits.
      number: of all turns, in the order in which they came.
      fed: whether its context is fed, as far as that was dispatched.
      unread: tokens that dispatched steps may sample at most.
      told: how many tokens of the context somebody has the routes of.
      decode: for the request's stop strings.
      watch: looks for them.
    """

    request: Request
    done: asyncio.Future[Turn]
    ids: np.ndarray
    known: int
    number: int = 0
    shard: int = -1
    row: int = -1
    lease: Lease | None = None
    fed: bool = False
    unread: int = 0
    told: int = 0
    decode: Decode | None = None
    watch: StopStrings | None = None
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    raw_logprobs: list[float] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)

    @staticmethod
    def of(request: Request, done: asyncio.Future[Turn], decode: Decode | None = None) -> Running:
        """A turn that waits."""
        ids = np.zeros(len(request.ids) + request.max_tokens, np.int32)
        ids[: len(request.ids)] = request.ids
        turn = Running(request, done, ids, len(request.ids), decode=decode)
        turn.restart()
        return turn

    @property
    def context(self) -> np.ndarray:
        """All that is known of it, int32."""
        return self.ids[: self.known]

    @property
    def left(self) -> int:
        """Tokens that may still be sampled, at least as far as is known."""
        return self.request.max_tokens - len(self.tokens)

    def view(self, page: int, steps: int) -> View:
        """For the schedule, where a step samples `steps` tokens."""
        assert self.lease is not None
        held = (len(self.lease.nodes) + len(self.lease.own)) * page
        feed = 0 if self.fed else self.known - self.lease.length
        ahead = 0
        if self.fed and self.unread < self.left:
            # Of all that is sampled, the last token is not fed.
            ahead = min(self.unread + steps, self.left)
        return View(feed, held - self.lease.length, len(self.lease.own), ahead)

    def cut(self, tokens: Sequence[int], ends: frozenset[int]) -> tuple[int, int | str | None]:
        """How many of the sampled tokens belong to the turn, and what of the request's own ended it there. The model's
        own end tokens are `ends`. Must be asked once for all tokens, in their order."""
        count, last = len(tokens), tokens[-1]
        ended = last in ends or last in self.request.stop_ids
        if self.watch is not None:
            found = self.watch.find(tokens[: count - ended])  # what ends a turn says nothing
            if found is not None:
                return found
        return count, last if ended and last not in ends else None

    def take(self, tokens: np.ndarray, logprobs: np.ndarray, raw: np.ndarray, version: int) -> None:
        """Adds sampled tokens."""
        count = len(tokens)
        self.ids[self.known : self.known + count] = tokens
        self.known += count
        self.tokens += tokens.tolist()
        self.logprobs += logprobs.tolist()
        self.raw_logprobs += raw.tolist()
        self.versions += [version] * count

    def restart(self) -> None:
        """Forgets what was sampled."""
        self.known = len(self.request.ids)
        strings = self.request.stop_strings
        if strings:
            assert self.decode is not None
            self.watch = StopStrings(strings, self.decode)
        for sampled in (self.tokens, self.logprobs, self.raw_logprobs, self.versions):
            sampled.clear()

    def result(self, complete: bool, stop: int | str | None, page: int) -> Turn:
        """The turn; with the routes of all that is computed and was not told, where they are recorded."""
        assert self.lease is not None
        routes = None
        parts = self.lease.routes
        if parts and parts[0] is not None:
            first = self.told // page
            found = np.concatenate([part for part in parts[first:] if part is not None])
            routes = found[self.told - first * page : self.known - 1 - first * page]
        return Turn(
            tuple(self.tokens),
            tuple(self.logprobs),
            complete,
            tuple(self.raw_logprobs),
            tuple(self.versions),
            routes,
            stop,
        )
