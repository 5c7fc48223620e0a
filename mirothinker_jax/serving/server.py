"""HTTP over any engine: which endpoints there are, who may ask, and how the server ends.

Errors are JSON as OpenAI writes it. A client that closes its connection ends its turn. Everything but /health asks for
the key, where there is one.

Left out: TLS (put a proxy before it), several models, n > 1, constrained decoding. Not safe: without a key, whoever
reaches the port can sample; the default host is this machine alone.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from mirothinker_jax.config import ConfigError
from mirothinker_jax.rollout.remote.protocols import OURS
from mirothinker_jax.serving.control import WeightEndpoints
from mirothinker_jax.serving.desk import Desk
from mirothinker_jax.serving.errors import ApiError
from mirothinker_jax.serving.metrics import CONTENT_TYPE, Metrics
from mirothinker_jax.serving.openai import OpenAIEndpoints
from mirothinker_jax.serving.policy import Served
from mirothinker_jax.serving.tokens import TokenEndpoints

logger = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Limits:
    """What the server takes.

    Attributes:
      requests: turns under way at once; more are answered by 429.
      body_bytes: of a request; a larger one is answered by 413.
      grace_s: seconds that turns have to end when the server does.
    """

    requests: int = 1024
    body_bytes: int = 64 << 20
    grace_s: float = 30.0


LIMITS = Limits()


def bind(host: str, port: int) -> socket.socket:
    """A socket at the address, before anybody is listened to. Port 0: any free one. Raises ConfigError."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except BaseException:
            bound.close()
            raise
    except (OSError, OverflowError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(
            f"cannot listen at {host}, port {port}: {why}; give another --host or --port"
        ) from None
    return bound


class Server:
    """A policy behind HTTP. An async context manager: the port is open inside, and closed when it is left, after the
    turns under way have ended or `limits.grace_s` have passed."""

    def __init__(self, served: Served, bound: socket.socket, key: str = "", limits: Limits = LIMITS):
        """`bound` is closed with the server. `key` must come as a bearer token; "": none is asked for."""
        self._metrics = Metrics()
        self.desk = Desk(served, self._metrics, limits.requests)
        self._served, self._socket, self._key, self._limits = served, bound, key, limits
        host, port = bound.getsockname()[:2]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def __aenter__(self) -> Server:
        app = web.Application(middlewares=[self._middleware], client_max_size=self._limits.body_bytes)
        app.add_routes(self._routes())
        self._runner = web.AppRunner(
            app, handler_cancellation=True, access_log=None, shutdown_timeout=self._limits.grace_s
        )
        await self._runner.setup()
        await web.SockSite(self._runner, self._socket).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.desk.close(self._limits.grace_s)
        await self._runner.cleanup()

    def _routes(self) -> list[web.RouteDef]:
        routes = [
            *TokenEndpoints(self.desk).routes(),
            *OpenAIEndpoints(self.desk).routes(),
            *WeightEndpoints(self.desk).routes(),
            web.get("/health", self._health),
            web.get("/metrics", self._show_metrics),
        ]
        paths: dict[str, Any] = {}
        for route in routes:
            paths.setdefault(route.path, {})[route.method.lower()] = {}
        described = {"openapi": "3.1.0", "info": {"title": OURS, "version": "1"}, "paths": paths}

        async def describe(request: web.Request) -> web.Response:
            return web.json_response(described)

        return [*routes, web.get("/openapi.json", describe)]

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response()

    async def _show_metrics(self, request: web.Request) -> web.Response:
        gauges = {
            "turns": (self.desk.count, "turns at work or waiting"),
            "paused": (float(self.desk.paused), "1 while new turns wait"),
            "weights_version": (self._served.version, "how often the weights were changed"),
        }
        return web.Response(body=self._metrics.text(gauges).encode(), headers={"Content-Type": CONTENT_TYPE})

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        begun, status = time.monotonic(), 499  # a client that is gone
        try:
            response = await self._answer(request, handler)
            status = response.status
            return response
        finally:
            resource = request.match_info.route.resource
            path = "other" if resource is None else resource.canonical
            self._metrics.request(path, status, time.monotonic() - begun)

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            self._authorize(request)
            return await handler(request)
        except ApiError as error:
            return error.response()
        except web.HTTPRequestEntityTooLarge:
            limit = self._limits.body_bytes
            return ApiError(413, f"the body is larger than the {limit} bytes that are taken").response()
        except web.HTTPException as error:  # no such path, or another method
            said = f"{request.method} {request.path}: {error.reason}"
            return ApiError(error.status, said).response()
        except asyncio.CancelledError:
            raise
        except Exception:
            logger.exception("%s %s", request.method, request.path)
            return ApiError(500, "this server met an error of its own; its log has it").response()

    def _authorize(self, request: web.Request) -> None:
        if not self._key or request.path == "/health":
            return
        given = request.headers.get("Authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {self._key}".encode()):
            raise ApiError(401, "the key is missing or wrong; send it as Authorization: Bearer KEY")
