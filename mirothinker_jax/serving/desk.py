"""Turns under way: how many there may be, and how all of them are paused, cut off or waited for.

While paused, new turns wait. What happens to those at work is the mode's: "keep" lets them go on (new weights are taken
between two dispatches, and their contexts computed again), "wait" waits for their ends, "abort" ends them with what
they have by then: the pieces that a stream has given, or nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from mirothinker_jax.serving.errors import ApiError
from mirothinker_jax.serving.generation import Answer, Asked, generate
from mirothinker_jax.serving.metrics import Metrics
from mirothinker_jax.serving.policy import Served

MODES = ("abort", "wait", "keep")


class Desk:
    """Where turns are asked for. One event loop."""

    def __init__(self, served: Served, metrics: Metrics, most: int):
        """`most`: turns at work or waiting; more are refused."""
        self.served, self._metrics, self._most = served, metrics, most
        self._steps: set[asyncio.Future[Answer]] = set()
        self._count = 0
        self._open, self._idle = asyncio.Event(), asyncio.Event()
        self._open.set()
        self._idle.set()
        self._closing = False

    @property
    def paused(self) -> bool:
        return not self._open.is_set()

    @property
    def count(self) -> int:
        """Turns at work or waiting."""
        return self._count

    async def sample(self, asked: Asked) -> Answer:
        """The whole turn. Raises ApiError."""
        async with contextlib.aclosing(self.answers(asked)) as answers:
            async for answer in answers:
                if answer.finish:
                    return answer
        raise AssertionError("a turn ends")

    async def answers(self, asked: Asked) -> AsyncGenerator[Answer, None]:
        """The turn so far, again and again until it has a `finish`: the same object each time. Raises ApiError."""
        if self._closing:
            raise ApiError(503, "this server ends")
        if self._count >= self._most:
            raise ApiError(
                429, f"{self._count} requests are under way, the most that are taken; try again later"
            )
        self._count += 1
        self._idle.clear()
        answer = Answer()
        try:
            await self._open.wait()
            pieces = generate(self.served, asked)
            async with contextlib.aclosing(pieces):
                while not answer.finish:
                    answer = await self._step(pieces, answer)
                    yield answer
        finally:
            self._count -= 1
            self._metrics.turn(len(asked.ids), len(answer.tokens), answer.finish or "abort")
            if not self._count:
                self._idle.set()

    async def _step(self, pieces: AsyncGenerator[Answer, None], answer: Answer) -> Answer:
        step = asyncio.ensure_future(anext(pieces))
        self._steps.add(step)
        try:
            await asyncio.wait({step})
        except asyncio.CancelledError:  # the client is gone
            step.cancel()
            await asyncio.wait({step})
            raise
        finally:
            self._steps.discard(step)
        if step.cancelled():
            answer.finish = "abort"
            return answer
        return step.result()

    async def pause(self, mode: str) -> None:
        """Holds new turns back until `resume`."""
        self._open.clear()
        if mode == "abort":
            self.abort()
        if mode != "keep":
            while self._steps:
                await asyncio.wait(self._steps)

    def resume(self) -> None:
        """Lets turns begin again."""
        self._open.set()

    def abort(self) -> None:
        """Ends every turn at work."""
        for step in self._steps:
            step.cancel()

    async def close(self, grace_s: float) -> None:
        """Takes no more turns, gives those under way some seconds, and then ends them."""
        self._closing = True
        self._open.set()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), grace_s)
        self.abort()
