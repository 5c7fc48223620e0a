"""The embedded web's answers: a request in, a status and a body out. No sockets here (server.py has them).

POST http://search.test/search speaks Serper's request and response shape. GET serves an entity's page at
its primary address and on the mirror. Any other host is refused: nothing is ever forwarded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from mirothinker_jax.config import WorldConfig
from mirothinker_jax.world.facts import World
from mirothinker_jax.world.noise import Noise
from mirothinker_jax.world.pages import render_page
from mirothinker_jax.world.search import SearchIndex

SEARCH_HOST = "search.test"
MIRROR_HOST = "mirror.test"
MOST_RESULTS = 100  # Serper's own limit


class Reply(NamedTuple):
    """What the site answers."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    delay_s: float = 0.0


class Site:
    """All pages and the search of one world. Pages are rendered once, when first asked for."""

    def __init__(self, world: World, settings: WorldConfig, seed: int):
        self._world = world
        self._settings = settings
        self._noise = Noise(settings, seed)
        self._index = SearchIndex(world, self._noise.dead)
        self._pages: dict[str, bytes] = {}
        self._kinds = {e.url.split("/")[2]: e.kind for e in world.entities.values()}

    def answer(
        self, method: str, host: str, path: str, headers: Mapping[str, str], body: bytes = b""
    ) -> Reply:
        """The reply to one request.

        Args:
          host: of the absolute URL or the Host header, without a port, lower case.
          path: decoded, with the leading slash, without a query.
          headers: case-insensitive.
        """
        if host != SEARCH_HOST and host != MIRROR_HOST and host not in self._kinds:
            return Reply(404, b"this proxy serves the embedded web only and forwards nothing\n")
        request_id = headers.get("X-Request-Id", "").rpartition("/")[2]
        if host == SEARCH_HOST:
            if path != "/search":
                return Reply(404, b"not found\n")
            return self._search(method, headers, body, request_id)
        if method not in ("GET", "HEAD"):
            return Reply(405, b"method not allowed\n")
        return self._noisy(f"http://{host}{path}", request_id, lambda: self._page(host, path[1:]))

    def _noisy(self, target: str, request_id: str, answer: Callable[[], Reply]) -> Reply:
        if self._noise.failing(target, request_id):
            return Reply(503, b"service unavailable\n")
        reply = answer()
        if self._noise.slow(target, request_id):
            return reply._replace(delay_s=self._settings.slow_s)
        return reply

    def _page(self, host: str, entity_id: str) -> Reply:
        entity = self._world.entities.get(entity_id)
        dead = host != MIRROR_HOST and self._noise.dead(entity_id)
        if entity is None or dead or (host != MIRROR_HOST and self._kinds[host] != entity.kind):
            return Reply(404, b"not found\n")
        if entity_id not in self._pages:
            self._pages[entity_id] = render_page(self._world, entity).encode()
        return Reply(200, self._pages[entity_id], "text/html; charset=utf-8")

    def _search(self, method: str, headers: Mapping[str, str], body: bytes, request_id: str) -> Reply:
        if method != "POST":
            return _json(405, {"message": "Method not allowed.", "statusCode": 405})
        if not headers.get("X-API-KEY", "").strip():
            return _json(403, {"message": "Unauthorized.", "statusCode": 403})
        try:
            request = json.loads(body)
            query, num, page = request["q"], int(request.get("num", 10)), int(request.get("page", 1))
            valid = isinstance(query, str) and query.strip() and 1 <= num <= MOST_RESULTS and page >= 1
        except (ValueError, KeyError, TypeError):
            valid = False
        if not valid:
            return _json(400, {"message": "Missing query parameter", "statusCode": 400})
        return self._noisy(query, request_id, lambda: self._results(request, query, num, page, request_id))

    def _results(self, request: dict[str, Any], query: str, num: int, page: int, request_id: str) -> Reply:
        until = num * page
        found = self._index.search_ranked(query, until)
        if page == 1 and self._noise.wrong_first(query, request_id):
            similar = self._index.similar(query)
            if similar:
                wrong = similar[self._noise.pick(len(similar), query, request_id)]
                found = [wrong, *(e for e in found if e.id != wrong.id)]
        hits = self._index.hits(found, until)[until - num :]
        parameters = {"q": query, "type": "search", "num": num, "page": page, "engine": "google"}
        for key in ("gl", "hl", "location", "tbs", "autocorrect"):
            if key in request:
                parameters[key] = request[key]
        organic = [
            {"title": h.title, "link": h.url, "snippet": h.snippet, "position": i}
            for i, h in enumerate(hits, start=1)
        ]
        return _json(200, {"searchParameters": parameters, "organic": organic, "credits": 1})


def _json(status: int, value: Any) -> Reply:
    return Reply(status, json.dumps(value, ensure_ascii=False).encode(), "application/json; charset=utf-8")
