"""Pages by way of a reader service (Jina's, or one with its interface): GET service/ADDRESS answers as Markdown.

Such a service runs a browser, so it sees what scripts draw, and reads PDF. An address is checked as without it, but
the service looks up the name: one inside your network can be led to what only your network sees. A service that
fails or is late is infrastructure; what it says of the page is the page's. Left out: headers of the model's own,
which the services do not pass on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mirothinker_jax.tools.documents import PAGE_CHARS, Source
from mirothinker_jax.tools.guard import web_address
from mirothinker_jax.tools.leak_guard import is_leak
from mirothinker_jax.tools.spec import Failure, ToolError

if TYPE_CHECKING:  # only a run with tools pays for importing HTTP
    from mirothinker_jax.tools.client import WebClient

_PAGES_FAULT = (400, 422, 451)  # no such host, nothing to read there, a site that the service refuses
_REASON_CHARS = 200
_HEAD = re.compile(r"(?:[ \t]*\n)*((?:[A-Z][A-Za-z ]{1,30}:[^\n]*\n+)*)Markdown Content:[ \t]*\n")
_FIELD = re.compile(r"^(Title|URL Source|Warning):[ \t]*(.*?)[ \t]*$", re.MULTILINE)
_STATUS = re.compile(r"Target URL returned error (\d{3})")


class ReaderService:
    """The service at `url`, with a key or without one."""

    def __init__(self, client: WebClient, url: str, api_key: str, refuse: Sequence[str] = ()):
        self._client, self._refuse = client, refuse
        self._url = url.rstrip("/")
        self._headers = {"Accept": "text/plain"} | ({"Authorization": f"Bearer {api_key}"} if api_key else {})

    async def fetch(self, url: str, headers: Mapping[str, str], request_id: str) -> Source:
        """The page as Markdown whose first heading is its title.

        Args:
          headers: that the model asks for.

        Raises:
          ToolError: DEADLINE or NETWORK for the service, TOOL_ERROR or UNREACHABLE for the page.
        """
        if headers:
            raise ToolError(Failure.TOOL_ERROR, "custom_headers cannot be set here; leave them out")
        url = web_address(url, self._refuse)
        response = await self._client.send(
            "GET", f"{self._url}/{url}", request_id, self._headers, service=True
        )
        status, text = response.status_code, response.content.decode("utf-8", "replace")
        if status in _PAGES_FAULT:
            reason = " ".join(text.split())[:_REASON_CHARS]
            raise ToolError(Failure.TOOL_ERROR, f"cannot read {url}: {reason or f'HTTP {status}'}")
        if status != 200:  # also a bad key, a used-up quota: none of it is the model's fault
            raise ToolError(Failure.NETWORK, f"the reader service answered HTTP {status}")
        return _source(text, url, self._refuse)

    async def aclose(self) -> None:
        """Closes its connections."""
        await self._client.aclose()


def _source(text: str, url: str, refuse: Sequence[str]) -> Source:
    head = _HEAD.match(text)
    fields = dict(_FIELD.findall(head[1])) if head else {}
    if found := _STATUS.search(fields.get("Warning", "")):
        later = found[1] == "429" or found[1] >= "500"
        raise ToolError(Failure.UNREACHABLE if later else Failure.TOOL_ERROR, f"HTTP {found[1]} for {url}")
    address = fields.get("URL Source", "")
    if is_leak(address, refuse):
        raise ToolError(Failure.TOOL_ERROR, f"this address is off limits (benchmark data): {address}")
    title = f"# {fields['Title']}\n" if fields.get("Title") else ""
    body = title + text[head.end() if head else 0 :][:PAGE_CHARS]
    return Source(body.encode("utf-8", "replace"), "text/markdown; charset=utf-8", url)
