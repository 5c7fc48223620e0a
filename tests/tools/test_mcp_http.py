"""Servers of MCP over HTTP that refuse, lie, flood and hang; one call's failure is that call's alone."""

import asyncio
import contextlib
import gzip
import json

import pytest

from mirothinker_jax.config import ConfigError, ToolsConfig
from mirothinker_jax.tools import mcp_http
from mirothinker_jax.tools.executor import ToolExecutor
from mirothinker_jax.tools.mcp_client import McpServer, McpTool
from mirothinker_jax.tools.mcp_entry import parse_entry
from mirothinker_jax.tools.mcp_server import cut
from mirothinker_jax.tools.spec import Failure, ToolCall, ToolSpec

SETTINGS = ToolsConfig(deadline_s=20.0)
JSON, EVENTS = "application/json", "text/event-stream"
LONG = f"its answer is longer than {1 << 20:,} bytes"


def reply(message, text="fine"):
    result = {"content": [{"type": "text", "text": text}]}
    if message["method"] == "initialize":
        info = {"name": "web", "version": "1"}
        version = message["params"]["protocolVersion"]
        result = {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info}
    return json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}).encode()


def response(body, kind=JSON, status="200 OK", *headers, length=None):
    lines = [
        f"HTTP/1.1 {status}",
        f"Content-Type: {kind}",
        f"Content-Length: {length or len(body)}",
        *headers,
    ]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode() + body


def event(body):
    return b"event: message\r\ndata: " + body + b"\r\n\r\n"


def said(message, way):
    """What comes back, byte for byte."""
    body = reply(message)
    return {
        "json": lambda: response(body),
        "events": lambda: response(b": hello\n\n" + event(body), EVENTS),
        "refused": lambda: response(b"", JSON, "503 Service Unavailable"),
        "forbidden": lambda: response(b"", JSON, "401 Unauthorized"),
        "throttled": lambda: response(b"", JSON, "429 Too Many Requests"),
        "redirect": lambda: response(b"", JSON, "307 Temporary Redirect", "Location: http://127.0.0.1:1/mcp"),
        "page": lambda: response(b"<html>", "text/html"),
        "no json": lambda: response(b"{"),
        "huge": lambda: response(reply(message, "x" * (1 << 21))),
        "huge events": lambda: response(event(reply(message, "x" * (1 << 21))), EVENTS),
        "many events": lambda: response(b": hello\n\n" * (1 << 18) + event(body), EVENTS),
        "bomb": lambda: response(
            gzip.compress(b" " * (1 << 22) + body), JSON, "200 OK", "Content-Encoding: gzip"
        ),
        "too short": lambda: response(body, length=len(body) + 1000),
        "too long": lambda: response(body, length=len(body) - 5),
        "no HTTP": lambda: b"\x16\x03\x01\x00\xff\n\n",
        "nothing": lambda: b"",
        "events end": lambda: response(b": hello\n\n", EVENTS),
    }[way]()


@contextlib.asynccontextmanager
async def web(seen):
    """The address of a server that answers a call in the way that its text names."""

    async def answer(reader, writer):
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            seen.append(head)
            length = int(head.partition("content-length: ")[2].partition("\r\n")[0] or 0)
            message = json.loads(await reader.readexactly(length) or b"{}")
            if not head.startswith("post"):
                writer.write(response(b"", JSON, "405 Method Not Allowed"))
            elif "id" not in message:
                writer.write(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            elif message["method"] == "server/discover":
                writer.write(response(b"", JSON, "404 Not Found"))
            else:
                way = message["params"].get("arguments", {}).get("text", "json")
                if way == "hang":
                    await reader.read()
                else:
                    writer.write(said(message, way))
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/mcp"


def ask(*ways, settings=SETTINGS, at_once=False, seen=None, headers=""):
    """Results of calls that are answered in these ways, one after another or all at once."""

    async def run():
        async with web([] if seen is None else seen) as url:
            tool = McpTool(
                ToolSpec("web", "say", "", {}, checks_arguments=True), McpServer(parse_entry(url + headers))
            )
            async with ToolExecutor([tool], settings, cut) as executor:
                calls = [executor.execute(ToolCall("web", "say", {"text": way}), "e:1.1") for way in ways]
                return list(await asyncio.gather(*calls)) if at_once else [await call for call in calls]

    return asyncio.run(run())


CALLS = {
    "json": ("fine", None),
    "events": ("fine", None),
    "refused": ("the server web answers HTTP 503", Failure.NETWORK),
    "forbidden": ("the server web answers HTTP 401", Failure.NETWORK),
    "throttled": ("the server web answers HTTP 429", Failure.NETWORK),
    "redirect": ("the server web Redirect to http://127.0.0.1:1/mcp not followed", Failure.NETWORK),
    "page": ("the server web Unexpected content type: text/html", Failure.NETWORK),
    "no json": ("the server web answers what is no message of MCP", Failure.NETWORK),
    "huge": (LONG, Failure.TOOL_ERROR),
    "huge events": (LONG, Failure.TOOL_ERROR),
    "many events": (LONG, Failure.TOOL_ERROR),
    "bomb": ("the server web compresses its answer (gzip)", Failure.NETWORK),
    "too short": ("the server web cannot be reached", Failure.NETWORK),
    "too long": ("the server web answers what is no message of MCP", Failure.NETWORK),
    "no HTTP": ("the server web cannot be reached", Failure.NETWORK),
    "nothing": ("the server web cannot be reached", Failure.NETWORK),
    "events end": ("the server web SSE stream ended", Failure.NETWORK),
}


@pytest.mark.parametrize("at_once", [False, True])
def test_each_call_fails_alone(at_once, monkeypatch):
    monkeypatch.setattr(mcp_http, "MESSAGE_BYTES", 1 << 20)
    monkeypatch.setattr(mcp_http, "_TOO_LONG", LONG)
    found = ask(*CALLS, at_once=at_once)
    assert [result.failure for result in found] == [failure for _, failure in CALLS.values()]
    assert [
        text for result, (text, _) in zip(found, CALLS.values(), strict=True) if text not in result.text
    ] == []


def test_a_call_that_hangs_leaves_the_others_and_the_session():
    seen = []
    found = ask("json", "hang", "json", settings=ToolsConfig(deadline_s=0.5), seen=seen)
    assert [result.failure for result in found] == [None, Failure.DEADLINE, None]
    assert sum("initialize" in head for head in seen) <= 1


def test_keys_go_in_headers_and_nothing_of_the_environment(monkeypatch):
    monkeypatch.setenv("ITS_KEY", "s3cret")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    seen = []
    (result,) = ask("json", seen=seen, headers=' Authorization="Bearer $ITS_KEY"')
    assert result.failure is None
    assert all("authorization: bearer s3cret\r\n" in head for head in seen)


def test_a_server_that_is_not_there_is_refused_in_a_line_and_fails_calls_as_infrastructure():
    with pytest.raises(ConfigError, match=r"^tools\.mcp: http://127\.0\.0\.1:1/mcp .*cannot be reached"):
        asyncio.run(McpServer(parse_entry("http://127.0.0.1:1/mcp")).listing())

    async def run():
        tool = McpTool(ToolSpec("web", "say", "", {}), McpServer(parse_entry("http://127.0.0.1:1/mcp")))
        async with ToolExecutor([tool], SETTINGS, cut) as executor:
            return await executor.execute(ToolCall("web", "say"), "e:1.1")

    assert asyncio.run(run()).failure is Failure.NETWORK
