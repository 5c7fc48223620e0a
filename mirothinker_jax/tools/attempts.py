"""A call that is due: waits for its turn, is made, and is made again where that may help.

Repeated are failures of infrastructure alone, of tools whose calls change nothing, while the call's deadline lasts. The
slot is given back between attempts. Waiting for the first turn is not the call's time; all that follows is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mirothinker_jax.config import ToolsConfig
from mirothinker_jax.tools.breaker import Breaker, CircuitOpen
from mirothinker_jax.tools.counters import Counters
from mirothinker_jax.tools.deadline import Deadlines
from mirothinker_jax.tools.limits import Limits
from mirothinker_jax.tools.spec import Failure, Tool, ToolError, ToolResult, ToolSpec

_FIRST_WAIT_S = (
    1.0  # before a second attempt, at most; it doubles each time, and the wait is anything up to it
)
_LONGEST_WAIT_S = 30.0


@dataclass
class _Call:
    tool: Tool
    arguments: Mapping[str, Any]
    request_id: str
    began: float | None = None  # its first attempt, by the event loop's clock

    async def run(self) -> Any:
        return await self.tool.run(self.arguments, self.request_id)


class Attempts:
    """Of all calls of an executor. Belongs to one event loop."""

    def __init__(self, settings: ToolsConfig, specs: Iterable[ToolSpec], counters: Counters):
        self._settings, self._counters = settings, counters
        self._limits, self._deadlines = Limits(settings), Deadlines()
        self._breakers = {
            server: Breaker(server, settings.breaker_failures, settings.breaker_open_s)
            for server in {spec.server for spec in specs}
        }

    async def result(self, tool: Tool, arguments: Mapping[str, Any], request_id: str) -> ToolResult:
        """What the call came to. Its text is not capped yet."""
        call = _Call(tool, arguments, request_id)
        clock = asyncio.get_running_loop().time
        asked = clock()
        failure: Failure | None = None
        try:
            retried = self._settings.retries and tool.spec.repeatable
            text = await (self._retried(call) if retried else self._once(call))
        except CircuitOpen as error:
            self._counters.refused += 1
            failure, text = error.failure, str(error)
        except ToolError as error:
            failure, text = error.failure, str(error)
        if call.began is None:  # refused before it began
            return ToolResult(text, failure)
        seconds = clock() - call.began
        self._counters.add_time(tool.spec.name, call.began - asked, seconds)
        return ToolResult(text, failure, seconds)

    async def _once(self, call: _Call) -> str:
        """An attempt. A later one's turn must come before the call's deadline."""
        breaker = self._breakers[call.tool.spec.server]
        breaker.check()  # before it waits, and again when it may begin
        clock, deadline_s = asyncio.get_running_loop().time, self._settings.deadline_s
        try:
            async with asyncio.timeout_at(None if call.began is None else call.began + deadline_s) as turn:
                async with self._limits.slot(call.tool.spec.name):
                    turn.reschedule(None)
                    with breaker.watch():
                        call.began = clock() if call.began is None else call.began
                        left = call.began + deadline_s - clock()
                        name = f"{call.tool.spec.name} in call {call.request_id}"
                        return _text(await self._deadlines.run(call.run, name, left, deadline_s))
        except TimeoutError:
            raise ToolError(Failure.DEADLINE, f"no result within {deadline_s:g} s") from None

    async def _retried(self, call: _Call) -> str:
        # 0.05 s, which only a run with retries pays
        from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

        clock = asyncio.get_running_loop().time

        def over(state: RetryCallState) -> bool:
            assert call.began is not None
            again_at = clock() + state.upcoming_sleep
            return (
                state.attempt_number > self._settings.retries
                or again_at >= call.began + self._settings.deadline_s
            )

        def count(state: RetryCallState) -> None:
            self._counters.retries += 1

        retrying = AsyncRetrying(
            sleep=asyncio.sleep,
            retry=retry_if_exception(_may_pass),
            wait=wait_random_exponential(multiplier=_FIRST_WAIT_S, max=_LONGEST_WAIT_S),
            stop=over,
            before_sleep=count,
            reraise=True,
        )
        return await retrying(self._once, call)

    async def aclose(self) -> None:
        await self._deadlines.aclose()


def _text(outcome: Any) -> str:
    if not isinstance(outcome, str):
        raise ToolError(Failure.TOOL_ERROR, f"the tool gave {type(outcome).__name__}, not text")
    return outcome


def _may_pass(error: BaseException) -> bool:
    """Whether another attempt may meet something else."""
    return (
        isinstance(error, ToolError) and error.failure.infrastructure and not isinstance(error, CircuitOpen)
    )
