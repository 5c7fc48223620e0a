"""HTTP for the tools: httpx's requests and responses over aiohttp's connections.

httpx's own connection pool is slow under concurrency: it walks all its requests and connections for
every request. Processor time of the client per request, measured on two busy cores with 16 requests at a
time over loopback: one httpx client 2.6 ms, a pool of one-connection clients 1.0 ms, threads with one
client each 0.65 ms, an httpx client on this transport 0.45 ms. By a profile the client around it takes
half of that, for cookies, redirects and hooks that are not wanted here: requests go to the transport directly.

A client goes to one of three places, and nowhere else: to the public web (guard.py, connection.py), to the one
service that the user configured, wherever that is, or through the embedded web's proxy. Bodies are read up to a
limit, before and after decompression (body.py). Cookies are never kept: episodes must not learn from each other.
Proxies of the environment (HTTPS_PROXY) are not used: behind one nobody could say where a connection goes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import aiohttp
import httpx
from multidict import CIMultiDict
from yarl import URL

from mirothinker_jax.tools.body import ACCEPT_ENCODING, read_body
from mirothinker_jax.tools.connection import AddressRefused, web_connector
from mirothinker_jax.tools.guard import web_address
from mirothinker_jax.tools.spec import Failure, ToolError

_HEADER_BYTES = (
    1 << 17
)  # of one response header; aiohttp's own 8,190 is less than some sites' security policies
_REDIRECTS = 5
_HEADER_SAFE = " !#$&'()*+,/:;=?@[]|"  # a task's id, which a request's begins with, may be in any script
_HEADERS = {"Accept": "*/*", "Accept-Encoding": ACCEPT_ENCODING, "User-Agent": "mirothinker-jax"}
# Set by aiohttp itself, or no longer true of a body that it has decompressed and cut.
_REQUEST_SKIPS = (b"connection", b"content-length", b"transfer-encoding")
_RESPONSE_SKIPS = (b"content-encoding", b"content-length", b"transfer-encoding")


class ProxyDown(httpx.ProxyError):
    """The proxy itself cannot be used, wherever the request was to go."""


class AiohttpTransport(httpx.AsyncBaseTransport):
    """Sends httpx requests over an aiohttp session, opened on first use and again after `aclose`."""

    def __init__(
        self,
        proxy_url: str | None,
        service_url: str | None,
        connections: int,
        timeout_s: float,
        max_body_bytes: int,
        max_file_bytes: int,
    ):
        self._proxy = URL(proxy_url) if proxy_url else None
        self._service = URL(service_url).origin() if service_url else None
        self._connections = connections
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._max_bytes = (max_body_bytes, max_file_bytes)
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def _open(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        if self._session is None:
            self._loop = loop
            self._session = aiohttp.ClientSession(
                connector=self._connector(),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=self._timeout,
                auto_decompress=False,
                max_line_size=_HEADER_BYTES,
                max_field_size=_HEADER_BYTES,
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            )
        elif self._loop is not loop:
            raise RuntimeError("this HTTP client is open on another event loop; close it there first")
        return self._session

    def _connector(self) -> aiohttp.TCPConnector:
        """To the proxy or the service, which may be anywhere; else to the public web."""
        if self._proxy or self._service:
            return aiohttp.TCPConnector(limit=self._connections)
        return web_connector(self._connections)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = URL(str(request.url), encoded=True)
        if self._service and url.origin() != self._service:
            raise RuntimeError(f"this client is for {self._service} alone, not for {url.origin()}")
        headers = CIMultiDict(
            (k.decode("latin-1"), v.decode("latin-1"))
            for k, v in request.headers.raw
            if k.lower() not in _REQUEST_SKIPS
        )
        try:
            async with self._open().request(
                request.method,
                url,
                headers=headers,
                data=await request.aread() or None,
                proxy=self._proxy,
                allow_redirects=False,
            ) as answer:
                encoding = ",".join(answer.headers.getall("Content-Encoding", ()))
                body = await self._read(answer.content, encoding, request)
        except TimeoutError as error:
            raise httpx.ReadTimeout("timed out", request=request) from error
        except aiohttp.ClientHttpProxyError as error:
            kind = ProxyDown if error.status == 407 else httpx.ProxyError
            raise kind(f"the proxy answered HTTP {error.status}", request=request) from error
        except aiohttp.ClientProxyConnectionError as error:
            raise ProxyDown(str(error), request=request) from error
        except aiohttp.ClientConnectionError as error:
            if isinstance(error.__cause__, AddressRefused):
                raise error.__cause__ from error
            raise self._broken(url, httpx.ConnectError)(
                str(error) or type(error).__name__, request=request
            ) from error
        except (
            ValueError
        ) as error:  # also aiohttp's InvalidURL; a bad certificate is one, too, but caught above
            raise httpx.InvalidURL(str(error)) from error
        except (aiohttp.ClientError, OSError) as error:
            raise self._broken(url, httpx.RemoteProtocolError)(
                str(error) or type(error).__name__, request=request
            ) from error
        kept = [(k, v) for k, v in answer.raw_headers if k.lower() not in _RESPONSE_SKIPS]
        return httpx.Response(answer.status, headers=kept, content=body)

    def _broken(self, url: URL, otherwise: type[httpx.TransportError]) -> type[httpx.TransportError]:
        """What a connection that breaks is: without a tunnel it was the proxy's, wherever the request was to go."""
        return ProxyDown if self._proxy and url.scheme == "http" else otherwise

    async def _read(self, content: aiohttp.StreamReader, encoding: str, request: httpx.Request) -> bytes:
        try:
            return await read_body(content, encoding, *self._max_bytes)
        except ValueError as error:
            raise httpx.RemoteProtocolError(str(error), request=request) from error

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
        *,
        service_url: str | None = None,
        max_file_bytes: int = 0,
        refuse: Sequence[str] = (),
    ):
        """A client of the public web; of the embedded one with `proxy_url`; of one service with `service_url`.

        Args:
          proxy_url: of the embedded web's server, which forwards nothing.
          max_body_bytes: a longer body is cut.
          transport: replaces the network, in tests.
          service_url: the user's own: its host may be private or this machine, and no other is asked.
          max_file_bytes: of a PDF or an archive, which are worth nothing when they are cut.
          refuse: words that no address which the model named may hold (leak_guard.py).
        """
        if proxy_url and service_url:
            raise ValueError(f"a client has a proxy ({proxy_url}) or a service ({service_url}), not both")
        self._transport = transport or AiohttpTransport(
            proxy_url, service_url, connections, timeout_s, max_body_bytes, max_file_bytes
        )
        self._through_proxy = bool(proxy_url)
        self._timeout_s, self._refuse = timeout_s, refuse

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
          request_id: for our own servers alone; a page on the public web does not get it.
          service: the address is of a service that the run brings, not one that the model named.

        Raises:
          ToolError: for a service DEADLINE or NETWORK. Else TOOL_ERROR for an address that cannot be one, that is
            not public or that the proxy refuses, UNREACHABLE where nobody answers, NETWORK where the proxy is down.
        """
        if not service:
            url = web_address(url, self._refuse)
        if service or self._through_proxy:
            headers = {**(headers or {}), "X-Request-Id": quote(request_id, _HEADER_SAFE)}
        try:
            merged = httpx.Headers(_HEADERS)
            merged.update(headers)
            request = httpx.Request(method, url, headers=merged, json=json)
            response = await self._transport.handle_async_request(request)
            response.request = request
            await response.aread()
            if response.has_redirect_location:
                response.next_request = httpx.Request("GET", request.url.join(response.headers["Location"]))
            return response
        except AddressRefused as error:
            raise ToolError(Failure.TOOL_ERROR, f"this address is off limits: {url} ({error})") from error
        except (httpx.InvalidURL, httpx.TransportError, ValueError) as error:
            if service:  # the model reads this, and the rest may hold a password
                url = str(URL(url).origin())
            if isinstance(error, httpx.TimeoutException):
                text = f"no answer from {url} in {self._timeout_s:g} s"
            elif isinstance(error, httpx.TransportError):
                text = f"cannot reach {url}: {error}"
            else:
                text = f"not a valid address: {url} ({error})"
            raise ToolError(_kind(error, service), text) from error

    async def fetch(
        self, url: str, request_id: str, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """What a GET of an address on the web comes to, redirects followed, each of them checked as the first.

        Args:
          headers: for the first host alone.

        Raises:
          ToolError: as `send`; UNREACHABLE for HTTP 429 and 5xx, TOOL_ERROR for 4xx and a chain of redirects.
        """
        for _ in range(_REDIRECTS + 1):
            response = await self.send("GET", url, request_id, headers)
            status = response.status_code
            if status == 429 or status >= 500:
                raise ToolError(Failure.UNREACHABLE, f"HTTP {status} for {url}")
            if status >= 400:
                raise ToolError(Failure.TOOL_ERROR, f"HTTP {status} for {url}")
            if not response.next_request:
                return response
            here, there = response.request.url, response.next_request.url
            if (here.scheme, here.netloc) != (there.scheme, there.netloc):
                headers = None  # they were meant for the first host alone
            url = str(there)
        raise ToolError(Failure.TOOL_ERROR, f"more than {_REDIRECTS} redirects, the last to {url}")

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
