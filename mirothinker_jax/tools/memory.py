"""Results of repeated calls from memory, and identical calls under way made once (tools.cache)."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

from mirothinker_jax.tools.spec import ToolResult

_REMEMBERED = 4096  # results; the least recently used one is dropped
Key = tuple[str, str, str]  # (server, tool, arguments as JSON)


@dataclass
class _Flight:
    """A call under way that identical calls wait for instead of being made again."""

    task: asyncio.Task[ToolResult]
    waiting: int = 0


class Memory:
    """Of one executor. Failures are not remembered."""

    def __init__(self) -> None:
        self._results: OrderedDict[Key, ToolResult] = OrderedDict()
        self._flights: dict[Key, _Flight] = {}
        self._tasks: set[asyncio.Task[ToolResult]] = (
            set()
        )  # those of the flights, and cancelled ones until they end

    async def result(self, key: Key, make: Callable[[], Coroutine[Any, Any, ToolResult]]) -> ToolResult:
        """The remembered result, that of an identical call under way, or what `make` comes to.

        A call under way ends early only if nobody waits for it any more.
        """
        if key in self._results:
            self._results.move_to_end(key)
            return replace(self._results[key], cached=True, seconds=0.0)
        flight = self._flights.get(key)
        joined = flight is not None
        if flight is None:
            flight = self._flights[key] = _Flight(asyncio.create_task(make()))
            self._tasks.add(flight.task)
            flight.task.add_done_callback(self._tasks.discard)
        flight.waiting += 1
        try:
            result = await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if not flight.waiting:
                flight.task.cancel()
                if self._flights.get(key) is flight:
                    del self._flights[key]
        if result.failure is None:
            self._results[key] = result
            if len(self._results) > _REMEMBERED:
                self._results.popitem(last=False)
        return replace(result, cached=joined and result.failure is None)

    async def aclose(self) -> None:
        """Ends the calls under way."""
        self._flights.clear()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
