"""Runs tool calls: mends, checks, limits, remembers, and turns every failure into a result.

`execute` never raises for anything a call or a tool does; only cancellation passes through. A deadline
cancels the tool, which must then stop what it started (sandbox.py kills its processes).
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mirothinker_jax.config import ToolsConfig
from mirothinker_jax.tools.mend import find_spec, mend_arguments
from mirothinker_jax.tools.spec import Failure, Tool, ToolCall, ToolError, ToolResult

logger = logging.getLogger(__name__)

_REMEMBERED = 4096  # results; the least recently used one is dropped
_MESSAGE_CHARS = 300  # of an error that a tool did not phrase itself

Truncate = Callable[[str, int], tuple[str, bool]]  # (text, max tokens) → (text, was it cut)


@dataclass
class Counters:
    """Since the executor was made. `seconds` is time inside tools, over all calls."""

    calls: int = 0
    cache_hits: int = 0
    truncated: int = 0
    seconds: float = 0.0
    failures: Counter[Failure] = field(default_factory=Counter)

    def figures(self) -> dict[str, float]:
        """For the log; every kind of failure is always there."""
        plain = {name: float(getattr(self, name)) for name in ("calls", "cache_hits", "truncated", "seconds")}
        failures = {f"failures_{kind}": float(self.failures[kind]) for kind in Failure}
        return {f"tools/{name}": value for name, value in (plain | failures).items()}


@dataclass
class _Flight:
    """A call under way that identical calls wait for instead of being made again."""

    task: asyncio.Task[ToolResult]
    waiting: int = 0


class ToolExecutor:
    """All tools of a run. Use it as an async context manager, or call `aclose`, to free connections.

    It may be used by one event loop after another, if closed in between.
    """

    def __init__(self, tools: Sequence[Tool], settings: ToolsConfig, truncate: Truncate):
        """`truncate` cuts a text to a number of tokens and says so in the text."""
        from jsonschema import Draft202012Validator  # 0.1 s, which only a run with tools pays

        self._tools: dict[tuple[str, str], Tool] = {(t.spec.server, t.spec.name): t for t in tools}
        if len(self._tools) != len(tools):
            raise ValueError(f"two tools share a name: {[t.spec.name for t in tools]}")
        self._validators = {
            key: Draft202012Validator(dict(tool.spec.parameters)) for key, tool in self._tools.items()
        }
        self._settings = settings
        self._truncate = truncate
        self._cache: OrderedDict[tuple[str, str, str], ToolResult] = OrderedDict()
        self._flights: dict[tuple[str, str, str], _Flight] = {}
        self._slots: asyncio.Semaphore | None = None
        self.counters = Counters()

    async def execute(self, call: ToolCall, request_id: str) -> ToolResult:
        """The call's result. `request_id` names the call for logs and servers ("episode:turn.call")."""
        result = await self._answer(call, request_id)
        self.counters.calls += 1
        self.counters.cache_hits += result.cached
        self.counters.truncated += result.truncated
        if not result.cached:
            self.counters.seconds += result.seconds
        if result.failure is not None:
            self.counters.failures[result.failure] += 1
        return result

    async def _answer(self, call: ToolCall, request_id: str) -> ToolResult:
        spec = find_spec(call, (tool.spec for tool in self._tools.values()))
        if spec is None:
            # A call format without servers is answered without them.
            known = ", ".join(f"{server}/{name}" if call.server else name for server, name in self._tools)
            asked = f"{call.server}/{call.tool}" if call.server else call.tool
            text = f"unknown tool {asked}; known tools: {known}"
            return self._failed(Failure.UNKNOWN_TOOL, text)
        if not isinstance(call.arguments, Mapping):
            return self._failed(Failure.INVALID_ARGUMENTS, "the arguments must be a JSON object")
        tool = self._tools[(spec.server, spec.name)]
        arguments = mend_arguments(call.arguments, spec)
        if not (self._settings.cache and spec.repeatable):
            return await self._checked(tool, arguments, request_id)
        try:
            key = (spec.server, spec.name, json.dumps(arguments, sort_keys=True))
        except (TypeError, ValueError, RecursionError) as error:
            return self._failed(
                Failure.INVALID_ARGUMENTS, f"the arguments are not JSON: {error}"[:_MESSAGE_CHARS]
            )
        if key in self._cache:
            self._cache.move_to_end(key)
            return replace(self._cache[key], cached=True, seconds=0.0)
        return await self._shared(key, tool, arguments, request_id)

    async def _shared(
        self, key: tuple[str, str, str], tool: Tool, arguments: Mapping[str, Any], request_id: str
    ) -> ToolResult:
        """Joins an identical call under way, or starts one. It ends early only if nobody waits any more."""
        flight = self._flights.get(key)
        joined = flight is not None
        if flight is None:
            flight = _Flight(asyncio.create_task(self._checked(tool, arguments, request_id)))
            self._flights[key] = flight
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
            self._cache[key] = result
            if len(self._cache) > _REMEMBERED:
                self._cache.popitem(last=False)
        return replace(result, cached=joined and result.failure is None)

    async def _checked(self, tool: Tool, arguments: Mapping[str, Any], request_id: str) -> ToolResult:
        validator = self._validators[(tool.spec.server, tool.spec.name)]
        from jsonschema.exceptions import best_match

        try:
            error = best_match(validator.iter_errors(arguments))
        except (RecursionError, ValueError) as cause:
            # Too deep, or a number too long, to be named in a message.
            return self._failed(
                Failure.INVALID_ARGUMENTS, f"the arguments cannot be read: {cause}"[:_MESSAGE_CHARS]
            )
        if error is not None:
            where = ".".join(map(str, error.absolute_path))
            message = f"{where}: {error.message}" if where else error.message
            return self._failed(Failure.INVALID_ARGUMENTS, message[:_MESSAGE_CHARS])
        if self._slots is None:
            self._slots = asyncio.Semaphore(self._settings.concurrency)
        async with self._slots:
            return await self._run(tool, arguments, request_id)

    async def _run(self, tool: Tool, arguments: Mapping[str, Any], request_id: str) -> ToolResult:
        start = time.monotonic()
        failure: Failure | None = None
        deadline = asyncio.timeout(self._settings.deadline_s)
        try:
            async with deadline:
                text = await tool.run(arguments, request_id)
        except ToolError as error:
            failure, text = error.failure, str(error)
        except TimeoutError as error:
            if deadline.expired():
                failure, text = Failure.DEADLINE, f"no result within {self._settings.deadline_s:g} s"
            else:
                failure, text = Failure.TOOL_ERROR, f"{type(error).__name__}: {error}"[:_MESSAGE_CHARS]
        except Exception as error:
            logger.warning("%s failed in call %s", tool.spec.name, request_id, exc_info=True)
            failure, text = Failure.TOOL_ERROR, f"{type(error).__name__}: {error}"[:_MESSAGE_CHARS]
        result = ToolResult(text, failure, time.monotonic() - start)
        return self._cap(result)

    def _failed(self, failure: Failure, text: str) -> ToolResult:
        return self._cap(ToolResult(text, failure))

    def _cap(self, result: ToolResult) -> ToolResult:
        # Half a surrogate pair, as a snippet cut in the middle of one has it, is not text to any tokenizer.
        text = result.text.encode("utf-8", "replace").decode("utf-8")
        text, cut = self._truncate(text, self._settings.output_tokens)
        return replace(result, text=text, truncated=cut)

    async def aclose(self) -> None:
        """Ends calls under way and closes what the tools hold open. The executor may be used again."""
        for flight in list(self._flights.values()):
            flight.task.cancel()
        self._flights.clear()
        self._slots = None
        for tool in self._tools.values():
            close = getattr(tool, "aclose", None)
            if close is not None:
                await close()

    async def __aenter__(self) -> ToolExecutor:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()
