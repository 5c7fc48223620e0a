"""Connections to our server of MCP as episodes: each has a sandbox and a folder of its own, from its first call on.

A connection ends when its client says so; one that is not used for IDLE_S counts as ended, since clients that crash say
nothing. A client without a session has an episode for each call.
"""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from mirothinker_jax.tools.executor import ToolExecutor
from mirothinker_jax.tools.spec import ToolCall, ToolError, ToolResult

IDLE_S = 1800.0


@dataclass
class _Session:
    episode: str = field(default_factory=lambda: f"mcp-{uuid.uuid4().hex}")
    numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    calls: int = 0  # under way
    used: float = 0.0  # by the event loop's clock


class Sessions:
    """Those of one server, on one event loop."""

    def __init__(self, executor: ToolExecutor):
        self._executor = executor
        self._sessions: dict[str, _Session] = {}
        self._turn = asyncio.Lock()

    async def execute(self, name: str | None, call: ToolCall) -> ToolResult:
        """The call's result, in the session of that name; None: in one for this call alone.

        Raises:
          OSError: the record cannot be written.
        """
        own = name or uuid.uuid4().hex
        try:
            async with self._session(own) as session:
                return await self._executor.execute(call, f"{session.episode}:{next(session.numbers)}.0")
        except ToolError as error:  # a tool cannot begin an episode
            return ToolResult(str(error), error.failure)
        finally:
            if name is None:
                await self.end(own)

    async def end(self, name: str) -> None:
        """Ends the session's episode, if it made any call."""
        session = self._sessions.pop(name, None)
        if session is not None:
            await self._executor.end(session.episode)

    async def aclose(self) -> None:
        """Ends all."""
        for name in list(self._sessions):
            await self.end(name)

    @asynccontextmanager
    async def _session(self, name: str) -> AsyncIterator[_Session]:
        clock = asyncio.get_running_loop().time
        async with self._turn:
            session = self._sessions.get(name)
            if session is None:
                for other, idle in list(self._sessions.items()):
                    if not idle.calls and clock() - idle.used > IDLE_S:
                        await self.end(other)
                self._sessions[name] = session = _Session()
                await self._executor.begin(session.episode, ())
        session.calls += 1
        try:
            yield session
        finally:
            session.calls -= 1
            session.used = clock()
