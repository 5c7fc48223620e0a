"""HTTP to a server of MCP, within limits: `mcp`'s transport reads answers of any length, and one refused connection
ends all calls that are under way on it.

Whatever goes wrong with one request is an error answered to that request alone. Not followed are redirects that leave
the server; proxies of the environment are not used, and compressed answers not taken: they may unpack to gigabytes.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any

import httpx2
from mcp.client.streamable_http import streamable_http_client
from mcp_types import INTERNAL_ERROR

from mirothinker_jax.tools.mcp_stdio import MESSAGE_BYTES

if TYPE_CHECKING:  # not public
    from mcp.client._transport import TransportStreams

_CONNECT_S = 10.0
_READ_S = 600.0  # between two pieces; a call's own deadline comes first
UNREACHABLE = -32090  # our code for an error that stands in for an answer of HTTP
_SESSION = "Mcp-Session-Id"


@contextlib.asynccontextmanager
async def open_http(
    url: str, headers: Mapping[str, str], session_lost: Callable[[], object]
) -> AsyncIterator[TransportStreams]:
    """Streams to and from the server at `url`. `session_lost` is called when it knows our session no more."""
    limits = httpx2.Timeout(_CONNECT_S, read=_READ_S)
    sent = {**headers, "Accept-Encoding": "identity"}
    transport = _Bounded(httpx2.AsyncHTTPTransport(), session_lost)
    async with (
        httpx2.AsyncClient(transport=transport, headers=sent, timeout=limits, trust_env=False) as client,
        streamable_http_client(url, http_client=client, max_sse_event_size=2 * MESSAGE_BYTES) as streams,
    ):
        yield streams


class _Bounded(httpx2.AsyncBaseTransport):
    """Answers with an error of MCP where there is no answer, or none that can be taken."""

    def __init__(self, inner: httpx2.AsyncBaseTransport, session_lost: Callable[[], object]):
        self._inner = inner
        self._session_lost = session_lost

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if request.method != "POST":
            return await self._inner.handle_async_request(request)
        identifier = json.loads(await request.aread()).get("id")
        try:
            response = await self._inner.handle_async_request(request)
            return await self._within_limits(request, response, identifier)
        except (httpx2.TransportError, httpx2.StreamError) as error:
            return _error(identifier, UNREACHABLE, f"cannot be reached ({type(error).__name__}: {error})")

    async def _within_limits(
        self, request: httpx2.Request, response: httpx2.Response, identifier: Any
    ) -> httpx2.Response:
        status, encoding = response.status_code, response.headers.get("Content-Encoding", "identity")
        if status == 404 and _SESSION in request.headers:
            self._session_lost()
        if status >= 500 or status in (401, 403, 429):
            await response.aclose()
            return _error(identifier, UNREACHABLE, f"answers HTTP {status}")
        if encoding.strip().lower() not in ("", "identity"):
            await response.aclose()
            return _error(identifier, UNREACHABLE, f"compresses its answer ({encoding[:20]})")
        pieces = response.stream
        assert isinstance(pieces, httpx2.AsyncByteStream)
        if response.headers.get("Content-Type", "").lower().startswith("text/event-stream"):
            response.stream = _Events(pieces, identifier)
            return response
        body = bytearray()
        try:
            async for piece in pieces:
                body += piece
                if len(body) > MESSAGE_BYTES:
                    return _error(identifier, INTERNAL_ERROR, _TOO_LONG)
        finally:
            await response.aclose()
        headers = [
            (name, value)
            for name, value in response.headers.multi_items()
            if name.lower() not in _OF_THE_BODY
        ]
        return httpx2.Response(status, headers=headers, content=bytes(body))

    async def aclose(self) -> None:
        await self._inner.aclose()


_TOO_LONG = f"its answer is longer than {MESSAGE_BYTES:,} bytes"
_OF_THE_BODY = ("content-length", "transfer-encoding")


class _Events(httpx2.AsyncByteStream):
    """A stream of events, which ends with an error where it would be too long."""

    def __init__(self, inner: httpx2.AsyncByteStream, identifier: Any):
        self._inner = inner
        self._identifier = identifier

    async def __aiter__(self) -> AsyncIterator[bytes]:
        length, line = 0, bytearray()  # a line that has begun is kept back: the error takes its place
        async for piece in self._inner:
            length += len(piece)
            if length > MESSAGE_BYTES:
                yield b"data: " + _error_text(self._identifier, INTERNAL_ERROR, _TOO_LONG) + b"\n\n"
                return
            end = piece.rfind(b"\n") + 1
            if end:
                yield bytes(line) + piece[:end]
                line.clear()
            line += piece[end:]
        yield bytes(line)

    async def aclose(self) -> None:
        await self._inner.aclose()


def _error(identifier: Any, code: int, message: str) -> httpx2.Response:
    """To a request, an error; to a notification, which has no id, that it was taken."""
    if identifier is None:
        return httpx2.Response(202)
    content = _error_text(identifier, code, message)
    return httpx2.Response(200, headers={"Content-Type": "application/json"}, content=content)


def _error_text(identifier: Any, code: int, message: str) -> bytes:
    error = {"code": code, "message": message[:300]}
    return json.dumps({"jsonrpc": "2.0", "id": identifier, "error": error}).encode()
