"""The asynchronous face of the local engine: agent.policy's Engine over the pages of a device.

One driver sends steps and reads them in one worker thread, the next before the last one's tokens are read; the event
loop stays free for tool calls. A session holds nothing between turns. Its pages can be found until others need their
room, and what is gone is computed again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from mirothinker_jax.agent.policy import Capabilities, Request, Turn
from mirothinker_jax.models.qwen import Params
from mirothinker_jax.rollout.local.device import Device
from mirothinker_jax.rollout.local.pages import shared
from mirothinker_jax.rollout.local.steps import Steps, Work
from mirothinker_jax.rollout.local.stops import Decode
from mirothinker_jax.rollout.local.turns import Running


class LocalEngine:
    """Turns sampled on this process's devices. Use as an async context manager, on one event loop.

    The device must be loaded when the first turn is asked for; `publish` gives it other parameters later on.
    """

    def __init__(self, device: Device, version: int = 0, decode: Decode | None = None):
        """`version` is of the parameters that the device holds. `decode` gives the text of ids, which stop strings are
        looked for in; None: requests may name none."""
        self._device, self._steps, self._decode = device, Steps(device, version), decode
        self._sessions: dict[str, Running] = {}
        self._told: dict[str, np.ndarray] = {}  # of sessions, the tokens whose routes were told
        # (in the thread, on the loop after it, who waits for both), between two steps.
        self._orders: list[tuple[Callable[[], None], Callable[[], None], asyncio.Future[None]]] = []
        self._work = asyncio.Event()

    @property
    def capabilities(self) -> Capabilities:
        """What requests may ask for."""
        return replace(self._device.capabilities, stop_strings=self._decode is not None)

    @property
    def sampled_tokens(self) -> int:
        """Of all turns so far."""
        return self._steps.sampled_tokens

    @property
    def prefilled_tokens(self) -> int:
        """Tokens of contexts that were computed, again where their pages had to go."""
        return self._steps.fed_tokens

    @property
    def restored_tokens(self) -> int:
        """At most so many came back from the host's memory instead of being computed."""
        return self._steps.restored_pages * self._device.config.page_tokens

    async def __aenter__(self) -> LocalEngine:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._driver = asyncio.create_task(self._drive())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._driver.cancel()
        await asyncio.gather(self._driver, return_exceptions=True)
        self._thread.shutdown()

    async def generate(self, request: Request) -> Turn:
        """The turn that follows the request's context.

        Raises ValueError where the turn does not fit, or asks for what the engine cannot do.
        """
        self.capabilities.check_request(request, "the local engine")
        room, vocabulary = self._device.context, self._device.model.vocab_size
        if not len(request.ids) or request.max_tokens < 1 or len(request.ids) + request.max_tokens > room:
            raise ValueError(
                f"a context of {len(request.ids)} tokens and a turn of {request.max_tokens} do not fit {room}; "
                "give at least one of each, or raise agent.context_tokens"
            )
        given = (*request.ids, *request.stop_ids)
        if not 0 <= min(given) <= max(given) < vocabulary:
            raise ValueError(f"a context or stop_ids have ids outside 0 … {vocabulary - 1}, the vocabulary")
        assert request.session not in self._sessions, f"two turns of session {request.session} at once"
        self._check()
        turn = Running.of(request, asyncio.get_running_loop().create_future(), self._decode)
        if self._device.record_routes and request.session in self._told:
            told = self._told[request.session]
            count = min(len(told), len(request.ids) - 1)
            turn.told = shared(told[:count], turn.ids[:count])
        self._sessions[request.session] = turn
        self._steps.add(turn)
        self._work.set()
        try:
            result = await turn.done
        finally:
            self._steps.drop(turn)
            if self._sessions.get(request.session) is turn:
                del self._sessions[request.session]
        if self._device.record_routes:
            self._told[request.session] = turn.context[:-1]
        return result

    def forget(self, session: str) -> None:
        """Ends a turn that nobody waits for any more. Pages stay until their room is needed."""
        self._told.pop(session, None)
        if (turn := self._sessions.pop(session, None)) is not None:
            turn.done.cancel()
            self._steps.drop(turn)

    async def publish(self, params: Params, version: int) -> None:
        """Samples with other parameters from the next step on. Turns at work keep their tokens; all contexts are
        computed again."""

        await self._at_a_boundary(lambda: self._device.load(params), lambda: self._steps.publish(version))

    async def release(self) -> None:
        """Gives the device's memory back, parameters and pages, until `publish`. Turns at work wait."""

        await self._at_a_boundary(self._device.unload, self._steps.clear)

    async def _at_a_boundary(self, work: Callable[[], None], then: Callable[[], None]) -> None:
        self._check()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._orders.append((work, then, future))
        self._work.set()
        await future

    def _check(self) -> None:
        """Raises what ended the driver: it only ends by an error."""
        if self._driver.done():
            self._driver.result()

    async def _drive(self) -> None:
        loop, unread = asyncio.get_running_loop(), None

        async def call(function: Callable, *arguments: Any) -> Any:
            return await loop.run_in_executor(self._thread, function, *arguments)

        async def finish(work: Work | None) -> None:
            if work is not None:
                for turn, result in self._steps.apply(work, *await call(self._steps.read, work)):
                    if not turn.done.done():
                        turn.done.set_result(result)

        try:
            while True:
                while self._orders:
                    await finish(unread)
                    unread = None
                    work, then, future = self._orders[0]
                    await call(work)
                    then()
                    del self._orders[0]
                    if not future.done():
                        future.set_result(None)
                ready = self._steps.busy and self._device.loaded
                if not ready and unread is None:
                    self._work.clear()
                    await self._work.wait()
                    continue
                sent = self._steps.send() if ready else None
                assert sent or unread or not ready, "the oldest turn always gets on"
                await finish(unread)
                unread = sent
                await asyncio.sleep(0)  # let finished turns start their tool calls
        except Exception as error:
            for future in [turn.done for turn in self._steps.turns] + [future for *_, future in self._orders]:
                if not future.done():
                    future.set_exception(error)
            raise
