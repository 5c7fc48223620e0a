"""The tools of servers of MCP (tools.mcp) as tools of ours.

A server is asked for its tools when they are built. It is connected to again, on the event loop in use, by the first
call that needs it, and by the next one after it died. A server in a process of its own is one for all episodes; a call
that ran out of time takes no more calls to it, and it is killed when the others that are under way have ended.

Nothing a server says is believed: its schemas are shown to the model and never run, descriptions and results are cut,
results pass the leak guard. What breaks is infrastructure: a server that does not start, ends, or answers nonsense.
An error of its own is the model's to read. Left out: prompts, resources, sampling, and questions to the user.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mcp import MCPError
from mcp_types import INVALID_PARAMS, PaginatedRequestParams

from mirothinker_jax.config_tree import ConfigError
from mirothinker_jax.tools.leak_text import mentions_leak
from mirothinker_jax.tools.mcp_connection import Connection, ServerBroken
from mirothinker_jax.tools.mcp_entry import McpEntry
from mirothinker_jax.tools.mcp_listing import MOST_TOOLS
from mirothinker_jax.tools.mcp_result import result_text
from mirothinker_jax.tools.spec import Failure, ToolError, ToolSpec

_PAGES = 100  # of a list, at most
_ERROR_CHARS = 2_000


class McpServer:
    """A server, and the connection that its tools share."""

    def __init__(self, entry: McpEntry):
        self._entry = entry
        self._connections: set[Connection] = set()
        self._current: Connection | None = None

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """What the server answers.

        Raises:
          MCPError, ServerBroken: as Connection.call.
          ConfigError: a variable of the entry is not set any more.
        """
        while True:
            connection = self._connected()
            connection.calls += 1
            try:
                return await connection.call(tool, arguments)
            except asyncio.CancelledError:  # out of time: what hangs in a process ends with it
                connection.usable = connection.usable and bool(self._entry.url)
                raise
            except (MCPError, ServerBroken):
                # A server that knows our session no more has done nothing: it is asked again, in a session that lasts
                # longer than a call.
                if not connection.session_lost or connection.answers == 0:
                    raise
            finally:
                connection.calls -= 1
                if not connection.usable and not connection.calls:
                    connection.end()

    async def listing(self) -> str:
        """The server's name and its tools as JSON: {"name": …, "tools": […]}.

        Raises:
          ConfigError: it cannot be started, lists no tools, or none that can be used; one line.
        """
        connection = self._connected()
        label = self._entry.label
        try:
            client = await connection.client()
            tools, cursor = [], None
            for _ in range(_PAGES):
                page = await client.session.list_tools(params=PaginatedRequestParams(cursor=cursor))
                tools += page.tools
                cursor = page.next_cursor
                if not cursor or len(tools) > MOST_TOOLS:
                    break
        except ServerBroken as error:
            raise ConfigError(f"tools.mcp: {label} {error}") from None
        except Exception as error:
            raise ConfigError(f"tools.mcp: {label} lists no tools ({error})"[:400]) from None
        info = client.server_info
        name = self._entry.name or re.sub(r"[^\w.-]+", "-", info.name if info else "", flags=re.ASCII)[:64]
        kept = [
            {
                "name": tool.name,
                "description": tool.description or tool.title or "",
                "parameters": tool.input_schema,
                "read_only": bool(tool.annotations and tool.annotations.read_only_hint),
            }
            for tool in tools[: MOST_TOOLS + 1]
        ]
        return json.dumps({"name": name, "tools": kept})

    def _connected(self) -> Connection:
        current = self._current
        if current is None or not current.usable or current.loop is not asyncio.get_running_loop():
            self._connections = {one for one in self._connections if not one.ended}
            self._current = current = Connection(self._entry)
            self._connections.add(current)
        return current

    async def aclose(self) -> None:
        """Disconnects; a process of ours is killed. The server may be used again."""
        here = asyncio.get_running_loop()
        connections, self._connections, self._current = self._connections, set(), None
        await asyncio.gather(*(one.aclose() for one in connections if one.loop is here))


class McpTool:
    """One tool of a server."""

    def __init__(self, spec: ToolSpec, server: McpServer, refuse: Sequence[str] = ()):
        """`refuse` as in leak_guard.is_leak."""
        self.spec = spec
        self._server, self._refuse = server, refuse

    async def run(self, arguments: Mapping[str, Any], request_id: str) -> str:
        if any(mentions_leak(text, self._refuse) for text in _strings(arguments)):
            raise ToolError(Failure.TOOL_ERROR, "refused: the call names an address of benchmark data")
        try:
            result = await self._server.call(self.spec.name, arguments)
        except ServerBroken as error:
            message = f"the server {self.spec.server} {error}"
            raise ToolError(Failure.NETWORK, message) from error
        except ConfigError as error:
            raise ToolError(Failure.NETWORK, str(error)) from error
        except MCPError as error:
            failure = Failure.INVALID_ARGUMENTS if error.code == INVALID_PARAMS else Failure.TOOL_ERROR
            raise ToolError(failure, error.message[:_ERROR_CHARS]) from error
        if result.get("resultType") == "input_required":
            raise ToolError(Failure.TOOL_ERROR, "the tool asks its user a question, and there is none here")
        text = await asyncio.to_thread(result_text, result, self._refuse)  # 50 ms of the longest
        if result.get("isError"):
            raise ToolError(Failure.TOOL_ERROR, text[:_ERROR_CHARS])
        return text

    async def aclose(self) -> None:
        """Disconnects from the server, for all of its tools."""
        await self._server.aclose()


def list_servers(entries: Sequence[McpEntry]) -> list[str]:
    """Each server's `McpServer.listing`, all asked at once. May be called where an event loop runs.

    Raises:
      ConfigError: as `McpServer.listing`.
    """
    from concurrent.futures import ThreadPoolExecutor

    async def ask(server: McpServer) -> str:
        try:
            return await server.listing()
        finally:
            await server.aclose()

    async def ask_all() -> list[str | BaseException]:
        return await asyncio.gather(*(ask(McpServer(entry)) for entry in entries), return_exceptions=True)

    with ThreadPoolExecutor(1) as thread:
        found = thread.submit(asyncio.run, ask_all()).result()
    listings: list[str] = []
    for listing in found:
        if isinstance(listing, BaseException):
            raise listing
        listings.append(listing)
    return listings


def _strings(value: Any) -> Iterable[str]:
    """All texts in a value that JSON can hold, names of fields too."""
    todo = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, Mapping):
            todo += [*item.keys(), *item.values()]
        elif isinstance(item, list):
            todo += item
