"""How many calls run at once and how often a tool may begin one.

Written out instead of taken from a limiter library: the slots and the rate must be waited for in one order, or calls
that wait for a slow rate hold the slots of all the others.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable

from mirothinker_jax.config import ToolsConfig, check
from mirothinker_jax.tools.spec import ToolSpec


def check_tool_names(settings: ToolsConfig, specs: Iterable[ToolSpec]) -> None:
    """Raises ConfigError for limits of a tool that is not there."""
    known = [spec.name for spec in specs]
    for key in ("tool_concurrency", "tool_rates"):
        for name in settings.by_tool(key):
            check(
                name in known,
                f"tools.{key} limits {name!r}, which is no tool of this run; its tools are {', '.join(known)}",
            )


class Limits:
    """Of all tools of an executor. Belongs to one event loop, whose clock it uses."""

    def __init__(self, settings: ToolsConfig):
        self._all = asyncio.Semaphore(settings.concurrency)
        concurrency, rates = settings.by_tool("tool_concurrency"), settings.by_tool("tool_rates")
        self._tools = {name: asyncio.Semaphore(int(slots)) for name, slots in concurrency.items()}
        self._paces = {name: _Pace(rate) for name, rate in rates.items()}

    @contextlib.asynccontextmanager
    async def slot(self, tool: str) -> AsyncIterator[None]:
        """Waits until a call of that tool may run, first come, first served."""
        async with self._tools.get(tool) or contextlib.nullcontext():
            if tool in self._paces:
                await self._paces[tool].take(self._all)
            else:
                await self._all.acquire()
            try:
                yield
            finally:
                self._all.release()


class _Pace:
    """Begins calls evenly spaced. Only the first in the queue waits for time and for a slot, so a call that is
    cancelled in the queue costs the others nothing."""

    def __init__(self, rate: float):
        self._interval_s = 1 / rate
        self._queue = asyncio.Lock()
        self._next = 0.0

    async def take(self, slots: asyncio.Semaphore) -> None:
        clock = asyncio.get_running_loop().time
        async with self._queue:
            while (wait := self._next - clock()) > 0:
                await asyncio.sleep(wait)
            await slots.acquire()
            self._next = clock() + self._interval_s
