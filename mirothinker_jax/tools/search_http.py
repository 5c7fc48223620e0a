"""A search service over HTTP, and whose fault it is when that fails.

A service that says when to come back (429 or 503 with Retry-After) is asked again then, where that is within the
call's deadline. Nothing else is retried here. Each way in which the service itself fails is logged once, for whoever
runs it: the model cannot mend it.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mirothinker_jax.tools.chat_api import retry_after_s
from mirothinker_jax.tools.search import Answer
from mirothinker_jax.tools.search_services import Service, complaint
from mirothinker_jax.tools.spec import Failure, ToolError

if TYPE_CHECKING:  # only a run with tools pays for importing HTTP
    import httpx

    from mirothinker_jax.tools.client import WebClient

logger = logging.getLogger(__name__)

_REFUSED = (400, 413, 414, 422)  # the query's own fault, unless the service says that it is about the account
_ACCOUNT = re.compile(
    r"credit|quota|subscription|billing|payment|unauthori[sz]ed|rate.?limit|(?:api|access)[ _-]?(?:key|token)",
    re.IGNORECASE,
)
_COMPLAINT_CHARS = 200
_GRACE = 0.9  # of the deadline, after which waiting for another answer is of no use
_FIRST_PAUSE_S = 0.1  # between two requests, at least; doubled each time


class HttpSearch:
    """A search.SearchBackend: one service, at one address, with one key."""

    def __init__(self, client: WebClient, service: Service, url: str, key: str, deadline_s: float):
        """`url` is as the user gave it (see Service.address); `key` may be empty where the service needs none."""
        self._client, self._service, self._key = client, service, key
        self._url = service.address(url)
        self._patience_s = deadline_s * _GRACE
        self._logged: set[str] = set()

    async def search(self, arguments: Mapping[str, Any], count: int, request_id: str) -> Answer:
        try:
            response = await self._ask(arguments, count, request_id)
            answer = self._service.answer(_body(response), arguments, count)
            if answer.complaint and answer.says_nothing:
                said = answer.complaint[:_COMPLAINT_CHARS]
                raise ToolError(Failure.NETWORK, f"the search service answered: {said}")
            return answer
        except ToolError as error:
            if error.failure.infrastructure and (said := str(error)) not in self._logged:
                self._logged.add(said)
                logger.warning("%s (tools.search_url): %s", urlsplit(self._url).hostname, said)
            raise

    async def _ask(self, arguments: Mapping[str, Any], count: int, request_id: str) -> httpx.Response:
        request = self._service.request(self._url, self._key, arguments, count)
        end, pause = time.monotonic() + self._patience_s, _FIRST_PAUSE_S
        while True:
            response = await self._client.send(
                request.method, request.url, request_id, request.headers, json=request.json, service=True
            )
            if response.status_code == 200:
                return response
            wait = retry_after_s(response) if response.status_code in (429, 503) else None
            if wait is None or time.monotonic() + max(wait, pause) > end:
                raise self._failure(response)
            await asyncio.sleep(max(wait, pause) + random.uniform(0, pause))
            pause *= 2

    def _failure(self, response: httpx.Response) -> ToolError:
        status = response.status_code
        try:
            said = complaint(_body(response))
        except ToolError:
            said = ""
        if status in _REFUSED and not _ACCOUNT.search(said):
            message = f"the search service refuses this query (HTTP {status})"
            return ToolError(Failure.TOOL_ERROR, f"{message}: {said[:_COMPLAINT_CHARS]}" if said else message)
        # Also a bad key, a used-up quota: none of it is the model's fault.
        reason = self._service.hints.get(status) or said[:_COMPLAINT_CHARS]
        if reason and self._key:
            reason = reason.replace(self._key, "…")
        message = f"the search service answered HTTP {status}"
        return ToolError(Failure.NETWORK, f"{message}: {reason}" if reason else message)

    async def aclose(self) -> None:
        await self._client.aclose()


def _body(response: httpx.Response) -> Mapping[str, Any]:
    """The JSON object. Raises ToolError (NETWORK) for anything else, such as the HTML of a proxy in between."""
    try:
        answer = response.json()
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip()[:_COMPLAINT_CHARS]
        message = f"the search service answered something unreadable{f' ({kind})' if kind else ''}"
        raise ToolError(Failure.NETWORK, message)
    return answer
