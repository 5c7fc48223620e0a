"""Runs tool calls: mends, checks, limits, remembers, records, and turns every failure into a result.

`execute` never raises for anything a call or a tool does; only cancellation passes through, and a record that
cannot be written. What runs a call is in attempts.py (turns, retries), breaker.py and deadline.py.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mirothinker_jax.config import ToolsConfig
from mirothinker_jax.tools.attempts import Attempts
from mirothinker_jax.tools.counters import Counters
from mirothinker_jax.tools.deadline import MESSAGE_CHARS
from mirothinker_jax.tools.latency import Latency
from mirothinker_jax.tools.lifetimes import Lifetimes
from mirothinker_jax.tools.limits import check_tool_names
from mirothinker_jax.tools.memory import Memory
from mirothinker_jax.tools.mend import find_spec, mend_arguments
from mirothinker_jax.tools.recording import Record
from mirothinker_jax.tools.replay import Replay
from mirothinker_jax.tools.spec import Failure, Tool, ToolCall, ToolResult

logger = logging.getLogger(__name__)

_LONG_CHARS = 1 << 16  # counting the tokens of a longer text would hold up the others: 10 ms and more

Truncate = Callable[[str, int], tuple[str, bool]]  # (text, max tokens) → (text, was it cut)


class ToolExecutor:
    """All tools of a run. Use it as an async context manager, or call `aclose`, to free connections.

    It may be used by one event loop after another, if closed in between.
    """

    def __init__(self, tools: Sequence[Tool], settings: ToolsConfig, truncate: Truncate):
        """`truncate` cuts a text to a number of tokens and says so in the text. It may be called from a thread.

        Raises:
          ConfigError: limits of a tool that is not there, or a record to replay that cannot be read.
        """
        from jsonschema import Draft202012Validator  # 0.1 s, which only a run with tools pays

        self._tools: dict[tuple[str, str], Tool] = {(t.spec.server, t.spec.name): t for t in tools}
        if len(self._tools) != len(tools):
            raise ValueError(f"two tools share a name: {[t.spec.name for t in tools]}")
        self._specs = tuple(tool.spec for tool in tools)
        check_tool_names(settings, self._specs)
        self._validators = {
            key: Draft202012Validator({} if tool.spec.checks_arguments else dict(tool.spec.parameters))
            for key, tool in self._tools.items()
        }
        self._settings = settings
        self._truncate = truncate
        self._memory = Memory()
        self._lifetimes = Lifetimes(tools, settings.deadline_s)
        self._attempts: Attempts | None = None  # made on the event loop that uses them
        self._record = Record(settings.record) if settings.record else None
        self._replay = Replay(settings.replay) if settings.replay else None
        self.counters = Counters(latency={tool.spec.name: Latency() for tool in tools})

    async def begin(self, episode: str, files: Sequence[str]) -> None:
        """Tells the tools that keep something for an episode (`begin`) that it starts, with these attachments.

        Raises:
          ToolError: one of them cannot; `end` is due all the same.
        """
        if self._replay is None:  # nothing is called where calls are replayed
            await self._lifetimes.begin(episode, files)

    async def end(self, episode: str) -> None:
        """Tells them that it is over. What one of them does wrong is logged: the episode has happened."""
        if self._replay is None:
            await self._lifetimes.end(episode)

    def concurrent(self, call: ToolCall) -> bool:
        """Whether the call may run at the same time as others of its turn."""
        spec = find_spec(call, self._specs)
        return spec is None or spec.concurrent

    def changes(self, call: ToolCall) -> bool:
        """Whether the call may change something that lasts, such as a sandbox."""
        spec = find_spec(call, self._specs)
        return spec is not None and not spec.repeatable

    async def execute(self, call: ToolCall, request_id: str) -> ToolResult:
        """The call's result. `request_id` names the call for logs, servers and the record ("episode:turn.call").

        Raises:
          OSError: the record cannot be written.
        """
        if self._replay is not None:
            result = await self._recorded(self._replay, call, request_id)
        else:
            result = await self._answer(call, request_id)
        if self._record is not None:
            self._record.append(call, request_id, result)
        self.counters.add(result)
        return result

    async def _recorded(self, replay: Replay, call: ToolCall, request_id: str) -> ToolResult:
        result = replay.result(call, request_id)
        if result is None:  # as infrastructure: what the policy did must not be judged by it
            text = replay.missing(call, request_id)
            logger.error("%s", text)
            return await self._cap(ToolResult(text, Failure.NETWORK))
        capped = await self._cap(result)  # tools.output_tokens may be another one now
        return replace(capped, truncated=result.truncated or capped.truncated)

    async def _answer(self, call: ToolCall, request_id: str) -> ToolResult:
        spec = find_spec(call, self._specs)
        if spec is None:
            # A call format without servers is answered without them.
            known = ", ".join(f"{server}/{name}" if call.server else name for server, name in self._tools)
            asked = f"{call.server}/{call.tool}" if call.server else call.tool
            text = f"unknown tool {asked}; known tools: {known}"
            return await self._failed(Failure.UNKNOWN_TOOL, text)
        if not isinstance(call.arguments, Mapping):
            return await self._failed(Failure.INVALID_ARGUMENTS, "the arguments must be a JSON object")
        tool = self._tools[(spec.server, spec.name)]
        arguments = mend_arguments(call.arguments, spec)
        if not (self._settings.cache and spec.repeatable and spec.shared):
            return await self._checked(tool, arguments, request_id)
        try:
            key = (spec.server, spec.name, json.dumps(arguments, sort_keys=True))
        except (TypeError, ValueError, RecursionError) as error:
            text = f"the arguments are not JSON: {error}"[:MESSAGE_CHARS]
            return await self._failed(Failure.INVALID_ARGUMENTS, text)
        return await self._memory.result(key, lambda: self._checked(tool, arguments, request_id))

    async def _checked(self, tool: Tool, arguments: Mapping[str, Any], request_id: str) -> ToolResult:
        validator = self._validators[(tool.spec.server, tool.spec.name)]
        from jsonschema.exceptions import best_match

        try:
            error = best_match(validator.iter_errors(arguments))
        except (RecursionError, ValueError) as cause:
            # Too deep, or a number too long, to be named in a message.
            text = f"the arguments cannot be read: {cause}"[:MESSAGE_CHARS]
            return await self._failed(Failure.INVALID_ARGUMENTS, text)
        if error is not None:
            where = ".".join(map(str, error.absolute_path))
            message = f"{where}: {error.message}" if where else error.message
            return await self._failed(Failure.INVALID_ARGUMENTS, message[:MESSAGE_CHARS])
        if self._attempts is None:
            self._attempts = Attempts(self._settings, self._specs, self.counters)
        return await self._cap(await self._attempts.result(tool, arguments, request_id))

    async def _failed(self, failure: Failure, text: str) -> ToolResult:
        return await self._cap(ToolResult(text, failure))

    async def _cap(self, result: ToolResult) -> ToolResult:
        # Half a surrogate pair, as a snippet cut in the middle of one has it, is not text to any tokenizer.
        text, most = result.text.encode("utf-8", "replace").decode("utf-8"), self._settings.output_tokens
        if len(text) > _LONG_CHARS:
            text, cut = await asyncio.to_thread(self._truncate, text, most)
        else:
            text, cut = self._truncate(text, most)
        return replace(result, text=text, truncated=cut)

    async def aclose(self) -> None:
        """Ends calls under way and closes what the tools hold open. The executor may be used again."""
        try:
            await self._memory.aclose()
            attempts, self._attempts = self._attempts, None
            if attempts is not None:
                await attempts.aclose()
            if self._record is not None:
                self._record.close()
            if self._replay is not None:
                self._replay.close()
        finally:
            await self._lifetimes.aclose()

    async def __aenter__(self) -> ToolExecutor:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()
