"""The asynchronous face of the engine: episodes ask for turns, one driver decides what to dispatch.

A session leases a slot at its first turn and keeps it until it is forgotten, so its cache stays while its tools run.
Every turn comes with its whole context. What the slot's cache shares with it from the start on is kept; the rest is
fed, so a context that was edited costs what follows the edit. The driver prefills whoever waits, then decodes whoever
runs, in one worker thread; the event loop stays free for tool calls.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from mirothinker_jax.agent.policy import Capabilities, Request, Sampling, Turn
from mirothinker_jax.models.qwen import Params
from mirothinker_jax.rollout.engine import Decoded, Engine, Slots
from mirothinker_jax.rollout.sampling import Settings


@dataclass(eq=False)
class _Turn:
    """A request under way."""

    request: Request
    slot: int
    feed: np.ndarray  # what is left to prefill, int32
    done: asyncio.Future[Turn]
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    raw_logprobs: list[float] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    routes: list[np.ndarray] = field(default_factory=list)  # [fed, L, k] by dispatch, where they are recorded

    def result(self, complete: bool) -> Turn:
        routes = np.concatenate(self.routes) if self.routes else None
        tokens, logprobs, raw = tuple(self.tokens), tuple(self.logprobs), tuple(self.raw_logprobs)
        return Turn(tokens, logprobs, complete, raw, tuple(self.versions), routes)


class Sampler:
    """agent.policy's Engine over the slots of a device engine. Use as an async context manager, on one event loop.

    With `routes` the experts of every fed token are recorded.
    """

    def __init__(self, engine: Engine, routes: bool = False, version: int = 0):
        """`version` is of the parameters that the engine holds."""
        assert engine.capabilities.routes or not routes, "a dense model has no routes"
        self._engine, self._record_routes, self._version = engine, routes, version
        self._orders: list[tuple[Params, int, asyncio.Future[None]]] = []
        count = engine.config.slots
        self._free = deque(range(count))
        self._room = asyncio.Semaphore(count)
        self._slots: dict[str, int] = {}  # of the sessions
        self._length = np.zeros(count, np.int32)
        # Of every slot: its cached tokens, and after them the one that was sampled but not fed.
        self._ids = np.zeros((count, engine.context + 1), np.int32)
        self._waiting: deque[_Turn] = deque()
        self._running: dict[int, _Turn] = {}
        self._work = asyncio.Event()
        self.sampled_tokens = 0
        self.prefilled_tokens = 0

    @property
    def capabilities(self) -> Capabilities:
        """What requests may ask for."""
        return self._engine.capabilities

    async def __aenter__(self) -> Sampler:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._driver = asyncio.create_task(self._drive())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._driver.cancel()
        await asyncio.gather(self._driver, return_exceptions=True)
        self._thread.shutdown()

    async def generate(self, request: Request) -> Turn:
        """The turn that follows the request's context, of which what the session's slot holds is not fed again.

        Raises ValueError where the turn does not fit a slot, or asks for what the engine cannot do.
        """
        self.capabilities.check(request.sampling, "the local engine")
        ids = np.asarray(request.ids, np.int32)
        if not len(ids) or len(ids) + request.max_tokens > self._engine.context:
            raise ValueError(
                f"a context of {len(ids)} tokens and a turn of {request.max_tokens} do not fit a slot of "
                f"{self._engine.context}; give at least one token, or raise agent.context_tokens"
            )
        if request.session not in self._slots:
            await self._room.acquire()
            assert request.session not in self._slots, f"two first turns of session {request.session} at once"
            self._slots[request.session] = slot = self._free.popleft()
            self._length[slot] = 0
        slot = self._slots[request.session]
        assert slot not in self._running and all(t.slot != slot for t in self._waiting), (
            f"two turns of session {request.session} at once"
        )
        if self._driver.done():  # it only ends by an error: say so to every episode, not just the first
            self._driver.result()
        # The last token is always fed: a turn begins with what the model says after it.
        kept = min(int(self._length[slot]), len(ids) - 1)
        kept = _shared(self._ids[slot, :kept], ids[:kept])
        self._length[slot] = kept
        self._ids[slot, kept : len(ids)] = ids[kept:]
        turn = _Turn(request, slot, ids[kept:], asyncio.get_running_loop().create_future())
        self._waiting.append(turn)
        self._work.set()
        try:
            return await turn.done
        finally:
            self._drop(turn)

    def forget(self, session: str) -> None:
        """Ends the lease, also in the middle of a turn that nobody waits for any more."""
        if (slot := self._slots.pop(session, None)) is None:
            return
        for turn in (*self._waiting, *self._running.values()):
            if turn.slot == slot:
                turn.done.cancel()
                self._drop(turn)
        self._free.append(slot)
        self._room.release()

    async def publish(self, params: Params, version: int) -> None:
        """Samples with other parameters from the next dispatch on. Turns at work keep their tokens; all contexts are
        computed again."""
        if self._driver.done():
            self._driver.result()
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._orders.append((params, version, done))
        self._work.set()
        await done

    async def release(self) -> None:
        """Lets go of the parameters until `publish`. No turn may be at work."""
        assert not self._waiting and not self._running, "turns are at work"
        self._engine.unload()

    def _publish(self) -> None:
        """Between two dispatches."""
        for params, version, done in self._orders:
            self._engine.load(params)
            self._version = version
            if not done.done():
                done.set_result(None)
        if self._orders:
            self._orders.clear()
            for turn in (*self._waiting, *self._running.values()):
                known = len(turn.request.ids) + len(turn.tokens)
                turn.feed = self._ids[turn.slot, :known].copy()
            self._waiting.extendleft(self._running.values())
            self._running.clear()
            self._length[:] = 0

    def _drop(self, turn: _Turn) -> None:
        if self._running.get(turn.slot) is turn:
            del self._running[turn.slot]
        if turn in self._waiting:
            self._waiting.remove(turn)

    async def _drive(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                if not self._waiting and not self._running and not self._orders:
                    self._work.clear()
                    await self._work.wait()
                self._publish()
                while self._waiting:
                    await self._prefill(loop)
                    self._publish()
                if self._running:
                    await self._decode(loop)
                await asyncio.sleep(0)  # let finished turns start their tool calls
        except Exception as error:
            futures = [turn.done for turn in (*self._waiting, *self._running.values())]
            for future in futures + [done for *_, done in self._orders]:
                if not future.done():
                    future.set_exception(error)
            raise

    async def _prefill(self, loop: asyncio.AbstractEventLoop) -> None:
        config = self._engine.config
        chosen = list(itertools.islice(self._waiting, config.prefill_slots))
        chunks = [turn.feed[: config.prefill_tokens] for turn in chosen]
        slots = np.asarray([turn.slot for turn in chosen], np.int32)
        state = self._state(slots, {turn.slot: turn for turn in chosen})
        drawn = await loop.run_in_executor(
            self._thread, self._engine.prefill, slots, chunks, state, self._record_routes
        )
        for i, turn in enumerate(chosen):
            if turn.done.done():  # given up meanwhile: the slot may be another episode's by now
                continue
            self._length[turn.slot] += len(chunks[i])
            self.prefilled_tokens += len(chunks[i])
            turn.feed = turn.feed[config.prefill_tokens :]
            if drawn.routes is not None:
                turn.routes.append(drawn.routes[i, : len(chunks[i])])
            if len(turn.feed):  # the token drawn after a chunk that was not the last is dropped
                continue
            self._waiting.remove(turn)
            self._running[turn.slot] = turn
            self._take(turn, drawn, i, 1)

    async def _decode(self, loop: asyncio.AbstractEventLoop) -> None:
        state = self._state(np.arange(self._engine.config.slots, dtype=np.int32), self._running)
        drawn: Decoded = await loop.run_in_executor(
            self._thread, self._engine.decode, state, self._record_routes
        )
        for slot, turn in list(self._running.items()):
            count = int((drawn.tokens[slot] >= 0).sum())
            self._length[slot] += count  # each drawn token means that the pending one before it was fed
            if drawn.routes is not None:
                turn.routes.append(drawn.routes[slot, :count])
            self._take(turn, drawn, slot, count)

    def _state(self, slots: np.ndarray, turns: dict[int, _Turn]) -> Slots:
        budget, settings = np.zeros(len(slots), np.int32), []
        for i, slot in enumerate(slots.tolist()):
            turn = turns.get(slot)
            settings.append((turn.request.sampling, turn.request.seed) if turn else (Sampling(), 0))
            budget[i] = turn.request.max_tokens - len(turn.tokens) if turn else 0
        length = self._length[slots]
        return Slots(length, self._ids[slots, length], budget, Settings.rows(settings))

    def _take(self, turn: _Turn, drawn: Decoded, row: int, count: int) -> None:
        tokens = drawn.tokens[row, :count]
        end = int(self._length[turn.slot]) + 1  # the last one is pending
        self._ids[turn.slot, end - count : end] = tokens
        turn.tokens.extend(tokens.tolist())
        turn.logprobs.extend(drawn.logprobs[row, :count].tolist())
        turn.raw_logprobs.extend(drawn.raw_logprobs[row, :count].tolist())
        turn.versions.extend([self._version] * count)
        self.sampled_tokens += count
        complete = turn.tokens[-1] in self._engine.end_ids
        if complete or len(turn.tokens) >= turn.request.max_tokens:
            del self._running[turn.slot]
            if not turn.done.done():
                turn.done.set_result(turn.result(complete))


def _shared(a: np.ndarray, b: np.ndarray) -> int:
    """How many tokens two arrays of one length have in common from the start on."""
    different = np.flatnonzero(a != b)
    return int(different[0]) if len(different) else len(a)
