"""A connection to a server of MCP: opened, kept and closed in a task of its own, as anyio's task groups want it.

Belongs to one event loop. Ends when it is told to, or when the server does; a new one then takes its place
(mcp_client.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import anyio
from mcp import Client, MCPError
from mcp.client.stdio import get_default_environment
from mcp_types import (
    CONNECTION_CLOSED,
    INVALID_REQUEST,
    PARSE_ERROR,
    REQUEST_TIMEOUT,
    CallToolRequest,
    CallToolRequestParams,
    Implementation,
)
from pydantic import TypeAdapter, ValidationError

from mirothinker_jax import __version__
from mirothinker_jax.tools.mcp_entry import McpEntry
from mirothinker_jax.tools.mcp_http import UNREACHABLE, open_http
from mirothinker_jax.tools.mcp_stdio import LastWords, run_server

if TYPE_CHECKING:  # not public
    from mcp.client._transport import TransportStreams

START_S = 60.0  # npx and uvx fetch a server when it is started for the first time
_STOP_S = 5.0
_NO_MESSAGE = "answers what is no message of MCP"
_RESULT: TypeAdapter[Any] = TypeAdapter(dict[str, Any])


class ServerBroken(Exception):
    """The server does not start, has ended, or sends what is no answer: says what it did ("answers HTTP 503")."""


class Connection:
    """`usable` until it breaks or is retired; `answers` that came. `calls` under way are counted by its user."""

    def __init__(self, entry: McpEntry):
        """Begins to connect.

        Raises:
          ConfigError: a variable that the entry needs is not set.
        """
        self.usable = True
        self.session_lost = False
        self.answers = self.calls = 0
        self.loop = asyncio.get_running_loop()
        self._words = LastWords()
        self._stop = asyncio.Event()
        self._ready: asyncio.Future[Client] = self.loop.create_future()
        self._ready.add_done_callback(lambda ready: ready.cancelled() or ready.exception())
        self._task = asyncio.create_task(self._run(self._open(entry)), name=f"MCP server {entry.label}")

    async def client(self) -> Client:
        """When it is connected. Raises ServerBroken where it cannot be."""
        return await asyncio.shield(self._ready)

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """What the server answers to tools/call: its fields by their names in MCP.

        Raises:
          MCPError: the server's own error.
          ServerBroken: anything else.
        """
        session = (await self.client()).session
        # Not session.call_tool: that runs the schema of the result, which the server wrote, over the result.
        request = CallToolRequest(params=CallToolRequestParams(name=tool, arguments=dict(arguments)))
        try:
            answer = await session.send_request(request, _RESULT)
        except MCPError as error:
            if error.code in (UNREACHABLE, INVALID_REQUEST, PARSE_ERROR):  # one side cannot read the other
                told = _NO_MESSAGE if error.code == PARSE_ERROR else error.message
                raise ServerBroken(told[:300]) from error
            if error.code in (CONNECTION_CLOSED, REQUEST_TIMEOUT):
                self.usable = False
                raise ServerBroken(self._told(error.message)) from error
            raise
        except ValidationError as error:
            raise ServerBroken(_NO_MESSAGE) from error
        except Exception as error:  # of the library, by what a server may send
            self.usable = False
            raise ServerBroken(f"cannot be asked ({type(error).__name__}: {error})"[:300]) from error
        self.answers += 1
        return answer

    def end(self) -> None:
        """Begins to disconnect; a process is killed a moment later."""
        self.usable = False
        self._stop.set()

    @property
    def ended(self) -> bool:
        """Whether it is disconnected, and its process gone."""
        return self._task.done()

    async def aclose(self) -> None:
        """Disconnects."""
        self.end()
        await asyncio.wait({self._task})

    def _open(self, entry: McpEntry) -> contextlib.AbstractAsyncContextManager[TransportStreams]:
        values = entry.expand()
        if entry.url:
            return open_http(entry.url, values, self._lose_session)
        return run_server(entry.command, get_default_environment() | values, self._words, self.end)

    def _lose_session(self) -> None:
        self.session_lost = True
        self.usable = False

    async def _run(self, transport: contextlib.AbstractAsyncContextManager[TransportStreams]) -> None:
        problem = "ended before it was ready"
        try:
            with anyio.move_on_after(START_S) as limit:
                us = Implementation(name="mirothinker-jax", version=__version__)
                async with Client(transport, cache=None, client_info=us) as client:
                    limit.deadline = math.inf
                    self._ready.set_result(client)
                    await self._stop.wait()
                    limit.deadline = anyio.current_time() + _STOP_S
            problem = f"is not ready after {START_S:g} s"
        except Exception as error:
            problem = _reason(error)
        finally:
            self.usable = False
            if not self._ready.done():
                self._ready.set_exception(ServerBroken(self._told(problem)))

    def _told(self, problem: str) -> str:
        """With the server's last words, which often say why."""
        problem = "ended" if problem == "Connection closed" else problem
        return f"{problem}: {self._words.line[:200]}" if self._words.line else problem


def _reason(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, FileNotFoundError):
        return f"cannot be started: there is no {error.filename}"
    if isinstance(error, MCPError):
        return (
            error.message if error.code == CONNECTION_CLOSED else f"refuses to connect: {error.message}"[:300]
        )
    return f"cannot be connected to ({type(error).__name__}: {error})"[:300]
