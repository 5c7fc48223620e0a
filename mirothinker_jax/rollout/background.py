"""A stream of groups on a thread of its own, so that episodes go on while the trainer computes.

The trainer's thread gives parameters and waits for groups; all else happens on the event loop. When `next` returns the
engine has what it needs of the parameters (hosts.py), which the trainer donates to its next step.

Not safe: trainer and sampler send their programs to the same devices from two threads. On one device, and on several of
a CPU, they take turns; collectives of both on several accelerators could wait for each other.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any

from mirothinker_jax.models.qwen import Params
from mirothinker_jax.rollout.stream import Groups, PublishedEngine
from mirothinker_jax.tools.counters import Counters
from mirothinker_jax.trajectory.types import Trajectory


class Background:
    """Groups behind a thread. All methods are for one thread, the trainer's."""

    def __init__(
        self,
        runner: asyncio.Runner,
        open_engine: Callable[[], AbstractAsyncContextManager[PublishedEngine]],
        make_groups: Callable[[PublishedEngine], Groups],
        counters: Counters,
    ):
        """Nothing else may use the runner before `close`. `counters` are the tools'.

        Raises what making the groups raises.
        """
        self._open_engine, self._make_groups, self._counters = open_engine, make_groups, counters
        self._before = counters.snapshot()
        self._loop = runner.get_loop()
        self._groups: concurrent.futures.Future[Groups] = concurrent.futures.Future()
        self._ended: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._closed = asyncio.Event()
        self._thread = threading.Thread(target=self._run, args=(runner,), name="rollouts", daemon=True)
        self._thread.start()
        if not self._comes(self._groups):
            self._ended.result()

    def next(self, step: int, params: Params) -> tuple[list[list[Trajectory]], dict[str, float]]:
        """As that of Groups."""
        found, figures = self._call(self._groups.result().next(step, params))
        now = self._counters.snapshot()
        figures, self._before = figures | (now - self._before).figures(), now
        return found, figures

    def close(self) -> None:
        """Ends what is under way; the journals have it. Harmless the second time. Raises what ending raises."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._closed.set)
            self._thread.join()
            self._ended.result()

    def _run(self, runner: asyncio.Runner) -> None:
        try:
            runner.run(self._live())
        except BaseException as error:
            self._ended.set_exception(error)
        else:
            self._ended.set_result(None)

    async def _live(self) -> None:
        async with self._open_engine() as engine:
            groups = self._make_groups(engine)
            self._groups.set_result(groups)
            try:
                await self._closed.wait()
            finally:
                await groups.aclose()

    def _comes(self, future: concurrent.futures.Future[Any]) -> bool:
        """Waits; False where the thread ends first."""
        either: tuple[concurrent.futures.Future[Any], ...] = (future, self._ended)
        concurrent.futures.wait(either, return_when=concurrent.futures.FIRST_COMPLETED)
        return future.done()

    def _call(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """What the coroutine gives on the event loop, if that does not end before: then nobody would ever say."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        if not self._comes(future):
            raise RuntimeError("the thread that samples has ended") from self._ended.exception()
        return future.result()
