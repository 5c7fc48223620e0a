"""The asynchronous face of the engine: episodes ask for turns, one driver decides what to dispatch.

Every episode leases a slot for its whole life, so its cache stays while its tools run. The driver prefills
whoever waits, then decodes whoever runs, in one worker thread; the event loop stays free for tool calls.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from mirothinker_jax.agent.policy import Turn
from mirothinker_jax.rollout.engine import Decoded, Engine, Slots
from mirothinker_jax.rollout.sampling import Sampling


@dataclass(eq=False)
class _Request:
    slot: int
    feed: np.ndarray  # what is left to prefill, int32
    max_tokens: int
    done: asyncio.Future[Turn]
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    routes: list[np.ndarray] = field(default_factory=list)  # [fed, L, k] by dispatch, where they are recorded

    @property
    def turn_routes(self) -> np.ndarray | None:
        return np.concatenate(self.routes) if self.routes else None


class Sampler:
    """A Policy over an Engine. Use as an async context manager; one event loop, many episodes."""

    def __init__(self, engine: Engine, sampling: Sampling):
        self._engine, self._sampling = engine, sampling
        count = engine.config.slots
        self._free = deque(range(count))
        self._room = asyncio.Semaphore(count)
        self._length = np.zeros(count, np.int32)
        self._pending = np.full(count, -1, np.int32)  # −1: nothing was sampled yet
        self._seed = np.zeros(count, np.int32)
        self._waiting: deque[_Request] = deque()
        self._running: dict[int, _Request] = {}
        self._work = asyncio.Event()
        self.sampled_tokens = 0
        self.prefilled_tokens = 0

    async def __aenter__(self) -> Sampler:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._driver = asyncio.create_task(self._drive())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._driver.cancel()
        await asyncio.gather(self._driver, return_exceptions=True)
        self._thread.shutdown()

    async def open(self, seed: int) -> SlotSession:
        await self._room.acquire()
        slot = self._free.popleft()
        self._length[slot], self._pending[slot], self._seed[slot] = 0, -1, seed
        return SlotSession(self, slot)

    def release(self, slot: int) -> None:
        """Ends the lease, also in the middle of a turn that nobody waits for any more."""
        self._running.pop(slot, None)
        self._waiting = deque(r for r in self._waiting if r.slot != slot)
        self._free.append(slot)
        self._room.release()

    async def sample(self, slot: int, tokens: Sequence[int], max_tokens: int) -> Turn:
        """Feeds `tokens` to the slot and samples a turn."""
        if self._driver.done():  # it only ends by an error: say so to every episode, not just the first
            self._driver.result()
        pending = [] if self._pending[slot] < 0 else [self._pending[slot]]
        feed = np.asarray([*pending, *tokens], np.int32)
        if self._length[slot] + len(feed) + max_tokens > self._engine.context:
            raise ValueError(
                f"{len(feed)} new tokens and a turn of {max_tokens} do not fit the slot: "
                f"{self._length[slot]} of {self._engine.context} are used; raise agent.context_tokens"
            )
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(_Request(slot, feed, max_tokens, future))
        self._work.set()
        return await future

    async def _drive(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                if not self._waiting and not self._running:
                    self._work.clear()
                    await self._work.wait()
                while self._waiting:
                    await self._prefill(loop)
                if self._running:
                    await self._decode(loop)
                await asyncio.sleep(0)  # let finished turns start their tool calls
        except Exception as error:
            for request in (*self._waiting, *self._running.values()):
                if not request.done.done():
                    request.done.set_exception(error)
            raise

    async def _prefill(self, loop: asyncio.AbstractEventLoop) -> None:
        config = self._engine.config
        chosen = list(itertools.islice(self._waiting, config.prefill_slots))
        chunks = [r.feed[: config.prefill_tokens] for r in chosen]
        slots = np.asarray([r.slot for r in chosen], np.int32)
        state = self._state(slots)
        drawn = await loop.run_in_executor(
            self._thread, self._engine.prefill, slots, chunks, state, self._sampling
        )
        for i, request in enumerate(chosen):
            if request.done.done():  # given up meanwhile: the slot may be another episode's by now
                continue
            self._length[request.slot] += len(chunks[i])
            self.prefilled_tokens += len(chunks[i])
            request.feed = request.feed[config.prefill_tokens :]
            if drawn.routes is not None:
                request.routes.append(drawn.routes[i, : len(chunks[i])])
            if len(request.feed):  # the token drawn after a chunk that was not the last is dropped
                continue
            self._waiting.remove(request)
            self._running[request.slot] = request
            self._take(request, drawn.tokens[i], drawn.logprobs[i])

    async def _decode(self, loop: asyncio.AbstractEventLoop) -> None:
        state = self._state(np.arange(self._engine.config.slots, dtype=np.int32))
        drawn: Decoded = await loop.run_in_executor(self._thread, self._engine.decode, state, self._sampling)
        for slot, request in list(self._running.items()):
            tokens = drawn.tokens[slot]
            count = int((tokens >= 0).sum())
            self._length[slot] += count  # each drawn token means that the pending one before it was fed
            if drawn.routes is not None:
                request.routes.append(drawn.routes[slot, :count])
            self._take(request, tokens[:count], drawn.logprobs[slot, :count])

    def _state(self, slots: np.ndarray) -> Slots:
        budget = np.zeros(len(slots), np.int32)
        for i, slot in enumerate(slots):
            if (request := self._running.get(int(slot))) is not None:
                budget[i] = request.max_tokens - len(request.tokens)
        return Slots(self._length[slots], self._pending[slots], self._seed[slots], budget)

    def _take(self, request: _Request, tokens: np.ndarray, logprobs: np.ndarray) -> None:
        request.tokens.extend(tokens.tolist())
        request.logprobs.extend(logprobs.tolist())
        self.sampled_tokens += len(tokens)
        self._pending[request.slot] = request.tokens[-1]
        complete = request.tokens[-1] in self._engine.end_ids
        if complete or len(request.tokens) >= request.max_tokens:
            del self._running[request.slot]
            if not request.done.done():
                turn = Turn(tuple(request.tokens), tuple(request.logprobs), complete, request.turn_routes)
                request.done.set_result(turn)


@dataclass
class SlotSession:
    """A Session over one leased slot."""

    sampler: Sampler
    slot: int

    async def sample(self, tokens: Sequence[int], max_tokens: int) -> Turn:
        return await self.sampler.sample(self.slot, tokens, max_tokens)

    def close(self) -> None:
        self.sampler.release(self.slot)
