"""`python -m mirothinker_jax.tools.mcp_server`: serves the tools of a config to anyone's client, by MCP.

Over standard input and output, or with --http over HTTP on loopback (address /mcp). Each connection is an episode of
its own, so a sandbox with an id is another one in another connection. HTTP therefore keeps to the protocols with
sessions (of 2025 and before), to which clients of the newer one fall back; one that does not gets an episode for each
call. A failed call is a result marked as an error, with its text. Calls run under the limits of the config, among them
tools.output_tokens, counted here as four characters each: there is no tokenizer.

Not safe: over HTTP every user of the machine may call the tools. Left out: prompts, resources, progress.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mirothinker_jax import __version__
from mirothinker_jax.config import ConfigError, ToolsConfig, WorldConfig, check
from mirothinker_jax.flags import CommandParser, read, some_groups, version
from mirothinker_jax.tools.build import build_tools, check_tools, key_env
from mirothinker_jax.tools.executor import ToolExecutor
from mirothinker_jax.tools.mcp_sessions import IDLE_S, Sessions
from mirothinker_jax.tools.spec import Tool, ToolCall
from mirothinker_jax.world.server import WorldServer

if TYPE_CHECKING:
    from mcp.server import Server

_CHARS_PER_TOKEN = 4
_SESSION = "mcp-session-id"  # a header
_ALONE = "alone"  # the session over standard input and output
_DESCRIPTION = (
    "Serves the tools of a config by MCP, for a client such as an editor or an agent of another make."
)
_EPILOG = """
examples:
  {program}
      over standard input and output: search and pages of the embedded web, and the Python sandbox
  {program} --config.tools.search=tavily --config.tools.output_tokens=4000
      the open web, with longer results
  {program} --http 8000 --config.tools.corpus=documents/
      over HTTP, at http://127.0.0.1:8000/mcp

for a client that starts its servers itself:
  {{"mcpServers": {{"mirothinker": {{"command": "mirothinker-mcp", "args": ["--config.tools.corpus=/data/docs"]}}}}}}

All --config.tools.KEY=VALUE are taken; python -m mirothinker_jax.train --help lists them. Keys of services are read
from the environment (SERPER_API_KEY and others), which a client must pass on.
Needs pip install 'mirothinker-jax[mcp]'.
"""


@dataclass(frozen=True)
class Serving:
    """The part of a config that is read."""

    seed: int = 0
    world: WorldConfig = field(default_factory=WorldConfig)
    tools: ToolsConfig = field(default_factory=ToolsConfig)


def main(argv: Sequence[str] | None = None) -> int:
    """Serves until the client closes, or Ctrl-C. A mistake is one line on standard error, and 2."""
    script = Path(sys.argv[0]).name
    program = script if script == "mirothinker-mcp" else "python -m mirothinker_jax.tools.mcp_server"
    parser = CommandParser(
        prog=program,
        description=_DESCRIPTION,
        epilog=_EPILOG.format(program=program),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config",
        metavar="CONFIG[:ARGUMENT]",
        help="as for mirothinker_jax.train; its tools, world and seed are read; default: the defaults of these",
    )
    parser.add_argument(
        "--http", type=int, metavar="PORT", help="over HTTP on this port of 127.0.0.1; 0: any free one"
    )
    options, rest = parser.parse_known_args(argv)
    if "--version" in rest:
        sys.stdout.write(f"{version()}\n")
        return 0
    try:
        file = ["--config", options.config] if options.config else []
        config = read(
            [*file, *rest], Serving, program, "toy/pipeline", lambda path, _: some_groups(Serving, path)
        )
        with _tools(config) as tools:
            executor = ToolExecutor(tools, config.tools, cut)
            http = options.http is not None
            asyncio.run(_serve_http(tools, executor, options.http) if http else _serve(tools, executor))
    except ConfigError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def make_server(tools: Sequence[Tool], sessions: Sessions) -> Server[Any]:
    """An MCP server of the tools, which are called in sessions.

    Raises:
      ConfigError: there are no tools, two share a name, or the package mcp is not installed.
    """
    try:
        import mcp_types as types
        from mcp.server import Server, ServerRequestContext
    except ModuleNotFoundError as error:
        raise ConfigError(f"there is no package {error.name}: pip install 'mirothinker-jax[mcp]'") from None
    names = [tool.spec.name for tool in tools]
    check(bool(names), "tools.names is empty, so there is nothing to serve")
    twice = sorted({name for name in names if names.count(name) > 1})
    check(
        not twice,
        f"two tools are called {', '.join(twice)}, and a server of MCP can have only one; leave one out",
    )

    async def list_tools(context: ServerRequestContext[Any, Any], given: Any) -> types.ListToolsResult:
        listed = [
            types.Tool(
                name=tool.spec.name,
                description=tool.spec.description,
                input_schema=dict(tool.spec.parameters),
                annotations=types.ToolAnnotations(read_only_hint=tool.spec.repeatable),
            )
            for tool in tools
        ]
        return types.ListToolsResult(tools=listed)

    async def call_tool(
        context: ServerRequestContext[Any, Any], given: types.CallToolRequestParams
    ) -> types.CallToolResult:
        headers = getattr(context.request, "headers", None)
        session = _ALONE if headers is None else headers.get(_SESSION)
        try:
            result = await sessions.execute(session, ToolCall("", given.name, given.arguments or {}))
        except OSError as error:  # the record cannot be written
            return types.CallToolResult(content=[types.TextContent(text=f"{error}")], is_error=True)
        said: list[types.ContentBlock] = [types.TextContent(text=result.text)]
        return types.CallToolResult(content=said, is_error=result.failure is not None)

    return Server("mirothinker", version=__version__, on_list_tools=list_tools, on_call_tool=call_tool)


def cut(text: str, tokens: int) -> tuple[str, bool]:
    """The text, at four characters a token, and whether it was longer.

    >>> cut("north and south", 3)
    ('north and so\\n(cut)', True)
    """
    most = tokens * _CHARS_PER_TOKEN
    return (text, False) if len(text) <= most else (f"{text[:most]}\n(cut)", True)


@contextlib.contextmanager
def _tools(config: Serving) -> Iterator[list[Tool]]:
    """On the embedded web, or wherever the config says."""
    settings = config.tools
    key = os.environ.get(key_env(settings), "")
    check_tools(settings, key)
    if settings.search_backend != "world":
        yield build_tools(settings, None, key)
        return
    with WorldServer(config.world, config.seed) as server:
        yield build_tools(settings, server.proxy_url, "")


@contextlib.asynccontextmanager
async def _sessions(executor: ToolExecutor) -> AsyncIterator[Sessions]:
    async with executor:
        sessions = Sessions(executor)
        try:
            yield sessions
        finally:
            await sessions.aclose()


async def _serve(tools: Sequence[Tool], executor: ToolExecutor) -> None:
    from mcp.server.stdio import stdio_server

    async with _sessions(executor) as sessions:

        async def leave(number: int) -> None:
            await sessions.aclose()
            await executor.aclose()
            os._exit(128 + number)  # a thread waits for standard input, and nothing else ends that

        leaving: list[asyncio.Task[None]] = []
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(
                number, lambda number=number: leaving.append(loop.create_task(leave(number)))
            )
        server = make_server(tools, sessions)
        async with stdio_server() as (incoming, outgoing):
            await server.run(incoming, outgoing, server.create_initialization_options())


async def _serve_http(tools: Sequence[Tool], executor: ToolExecutor, port: int) -> None:
    async with _sessions(executor) as sessions, listen(tools, sessions, port) as (url, serve):
        sys.stderr.write(f"serving {', '.join(tool.spec.name for tool in tools)} at {url}\n")
        sys.stderr.flush()
        await serve()


@contextlib.asynccontextmanager
async def listen(
    tools: Sequence[Tool], sessions: Sessions, port: int
) -> AsyncIterator[tuple[str, Callable[[], Any]]]:
    """An address on loopback, and what serves the tools there until it is cancelled, or Ctrl-C.

    Raises:
      ConfigError: the port cannot be had.
    """
    import mcp_types as types
    import uvicorn
    from mcp import MCPError

    async def discover(context: Any, given: types.RequestParams) -> types.DiscoverResult:
        raise MCPError(types.METHOD_NOT_FOUND, "this server keeps sessions; send initialize")

    server = make_server(tools, sessions)
    server.add_request_handler("server/discover", types.RequestParams, discover)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise ConfigError(
            f"--http {port}: {getattr(error, 'strerror', None) or error}; give another port"
        ) from None
    # With a loopback host the library refuses what a page in a browser sends (DNS rebinding).
    inner = server.streamable_http_app(host="127.0.0.1", session_idle_timeout=IDLE_S)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await inner(scope, receive, send)
        if scope["type"] == "http" and scope["method"] == "DELETE":
            headers = {name.lower(): value for name, value in scope["headers"]}
            await sessions.end(headers.get(_SESSION.encode(), b"").decode("latin-1"))

    serving = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=2))
    with listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/mcp", lambda: serving.serve(sockets=[listener])


if __name__ == "__main__":
    sys.exit(main())
