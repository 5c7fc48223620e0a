"""HTTP for the tools: an httpx client whose connections are aiohttp's.

httpx's own connection pool is slow under concurrency: it walks all its requests and connections for
every request. Processor time of the client per request, measured on two busy cores with 16 requests at a
time over loopback: one httpx client 2.6 ms, a pool of one-connection clients 1.0 ms, threads with one
client each 0.65 ms, this transport 0.45 ms. The rest of httpx (addresses, redirects, decoding to text,
mock transports in tests) is used as it is.

Bodies are read up to a limit and after decompression, so that neither an endless page nor a compressed
bomb fills the memory. Cookies are never kept: episodes must not learn from each other.

Not safe: a client without a proxy fetches whatever the network lets this machine reach, private
addresses included. Run it where that is harmless.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import aiohttp
import httpx
from multidict import CIMultiDict
from yarl import URL

from mirothinker_jax.tools.spec import Failure, ToolError

_READ_BYTES = 1 << 16
_HEADER_BYTES = (
    1 << 17
)  # of one response header; aiohttp's own 8,190 is less than some sites' security policies
# Set by aiohttp itself, or no longer true of a body that it has decompressed and cut.
_REQUEST_SKIPS = (b"connection", b"content-length", b"transfer-encoding")
_RESPONSE_SKIPS = (b"content-encoding", b"content-length", b"transfer-encoding")


class ProxyDown(httpx.ProxyError):
    """The proxy itself cannot be used, wherever the request was to go."""


class AiohttpTransport(httpx.AsyncBaseTransport):
    """Sends httpx requests over an aiohttp session, opened on first use and again after `aclose`."""

    def __init__(self, proxy_url: str | None, connections: int, timeout_s: float, max_body_bytes: int):
        self._proxy = URL(proxy_url) if proxy_url else None
        self._connections = connections
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._max_body_bytes = max_body_bytes
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def _open(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        if self._session is None:
            self._loop = loop
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._connections),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=self._timeout,
                max_line_size=_HEADER_BYTES,
                max_field_size=_HEADER_BYTES,
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            )
        elif self._loop is not loop:
            raise RuntimeError("this HTTP client is open on another event loop; close it there first")
        return self._session

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        headers = CIMultiDict(
            (k.decode("latin-1"), v.decode("latin-1"))
            for k, v in request.headers.raw
            if k.lower() not in _REQUEST_SKIPS
        )
        try:
            async with self._open().request(
                request.method,
                URL(str(request.url), encoded=True),
                headers=headers,
                data=await request.aread() or None,
                proxy=self._proxy,
                allow_redirects=False,
            ) as answer:
                body = await self._read(answer.content)
        except TimeoutError as error:
            raise httpx.ReadTimeout("timed out", request=request) from error
        except aiohttp.ClientHttpProxyError as error:
            kind = ProxyDown if error.status == 407 else httpx.ProxyError
            raise kind(f"the proxy answered HTTP {error.status}", request=request) from error
        except aiohttp.ClientProxyConnectionError as error:
            raise ProxyDown(str(error), request=request) from error
        except aiohttp.ClientConnectionError as error:
            raise httpx.ConnectError(str(error) or type(error).__name__, request=request) from error
        except (
            ValueError
        ) as error:  # also aiohttp's InvalidURL; a bad certificate is one, too, but caught above
            raise httpx.InvalidURL(str(error)) from error
        except (aiohttp.ClientError, OSError) as error:
            raise httpx.RemoteProtocolError(str(error) or type(error).__name__, request=request) from error
        kept = [(k, v) for k, v in answer.raw_headers if k.lower() not in _RESPONSE_SKIPS]
        return httpx.Response(answer.status, headers=kept, content=body)

    async def _read(self, content: aiohttp.StreamReader) -> bytes:
        parts, room = [], self._max_body_bytes
        while room > 0:
            part = await content.read(min(room, _READ_BYTES))
            if not part:
                break
            parts.append(part)
            room -= len(part)
        return b"".join(parts)

    async def aclose(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()


class WebClient:
    """What several tools share: one pool of connections, and errors of the network as ToolErrors."""

    def __init__(
        self,
        proxy_url: str | None = None,
        connections: int = 16,
        timeout_s: float = 30.0,
        max_body_bytes: int = 1 << 21,
        transport: httpx.AsyncBaseTransport | None = None,
    ):
        """`transport` replaces the network, in tests. A body longer than `max_body_bytes` is cut."""
        self._transport = transport or AiohttpTransport(proxy_url, connections, timeout_s, max_body_bytes)
        self._client = httpx.AsyncClient(
            transport=self._transport,
            trust_env=False,
            # Only what aiohttp always knows how to decompress.
            headers={"User-Agent": "mirothinker-jax", "Accept-Encoding": "gzip, deflate"},
            timeout=timeout_s,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        )
        self._timeout_s = timeout_s

    async def send(
        self,
        method: str,
        url: str,
        request_id: str,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        *,
        service: bool = False,
    ) -> httpx.Response:
        """One request; redirects are not followed.

        Args:
          service: the address is of a service that the run brings, not one that the model named.

        Raises:
          ToolError: for a service DEADLINE or NETWORK. Else TOOL_ERROR for an address that cannot be one or that
            the proxy refuses, UNREACHABLE where nobody answers, NETWORK where the proxy is down.
        """
        headers = {**(headers or {}), "X-Request-Id": request_id}
        try:
            return await self._client.send(
                self._client.build_request(method, url, headers=headers, json=json)
            )
        except (httpx.InvalidURL, httpx.TransportError, ValueError) as error:
            if isinstance(error, httpx.TimeoutException):
                text = f"no answer from {url} in {self._timeout_s:g} s"
            elif isinstance(error, httpx.TransportError):
                text = f"cannot reach {url}: {error}"
            else:
                text = f"not a valid address: {url} ({error})"
            raise ToolError(_kind(error, service), text) from error

    async def aclose(self) -> None:
        """Closes the connections. The client may be used again, also on another event loop."""
        await self._transport.aclose()


def _kind(error: Exception, service: bool) -> Failure:
    if service:
        return Failure.DEADLINE if isinstance(error, httpx.TimeoutException) else Failure.NETWORK
    if isinstance(error, ProxyDown):
        return Failure.NETWORK
    if isinstance(error, httpx.ProxyError):  # such as a tunnel to a host that the embedded web does not have
        return Failure.TOOL_ERROR
    return Failure.UNREACHABLE if isinstance(error, httpx.TransportError) else Failure.TOOL_ERROR
