"""scrape_and_extract_info: fetches a page and keeps the lines that answer what was asked.

The extraction is by rules (readable.py); upstream asks a language model instead.
"""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from mirothinker_jax.config import ToolsConfig, check
from mirothinker_jax.tools.encoding import decode_page
from mirothinker_jax.tools.guard import check_headers
from mirothinker_jax.tools.readable import READERS, Page, split_lines
from mirothinker_jax.tools.relevance import best_lines
from mirothinker_jax.tools.spec import Failure, ToolError, ToolSpec

if TYPE_CHECKING:  # only a run with tools pays for importing HTTP
    import httpx

    from mirothinker_jax.tools.client import WebClient

PAGE_CHARS = 409_600  # of a page, before extraction
_REDIRECTS = 5
_REMEMBERED_CHARS = 16_384  # the lines of the last few hundred pages up to this size are kept: agents reread
Reader = Callable[[str, str], Page]  # (HTML, address) → its lines
# The host of a slow page is the model's choice: its time ends before the call's does (see executor.py).
_GRACE_S = 1.0

SPEC = ToolSpec(
    server="jina_scrape_llm_summary",
    name="scrape_and_extract_info",
    description="Reads a web page and returns what it says about the information asked for.",
    parameters={
        "type": "object",
        "properties": {
            "url": {"type": "string", "minLength": 1, "description": "address of the page"},
            "info_to_extract": {"type": "string", "minLength": 1, "description": "what to look for"},
            "custom_headers": {
                "type": "object",
                "additionalProperties": {"type": "string"},
                "description": "extra request headers",
            },
        },
        "required": ["url", "info_to_extract"],
        "additionalProperties": False,
    },
    argument_aliases={"description": "info_to_extract", "introduction": "info_to_extract"},
)


class ScrapePage:
    """Keeps at most settings.scrape_lines lines of a page."""

    spec = SPEC

    def __init__(self, client: WebClient, settings: ToolsConfig):
        self._client = client
        self._lines = settings.scrape_lines
        self._reader = READERS[settings.reader]
        self._timeout_s = max(settings.deadline_s - _GRACE_S, settings.deadline_s * 0.9)
        check(
            settings.reader != "trafilatura" or importlib.util.find_spec("trafilatura") is not None,
            "tools.reader is 'trafilatura', which is not installed: pip install 'mirothinker-jax[tools]'",
        )

    async def run(self, arguments: Mapping[str, Any], request_id: str) -> str:
        url, wanted = arguments["url"].strip(), arguments["info_to_extract"]
        headers = check_headers(arguments.get("custom_headers", {}))
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await self._fetch(url, headers, request_id)
        except TimeoutError as error:
            message = f"no answer from {url} in {self._timeout_s:g} s"
            raise ToolError(Failure.UNREACHABLE, message) from error
        page = _read(response, str(response.request.url), self._reader)
        # The title is shown anyway, so a heading that repeats it would waste a line.
        found = best_lines([line for line in page.lines if line != page.title], wanted, self._lines)
        return "\n".join([page.title, *(found or [f'nothing about "{wanted}"'])])

    async def _fetch(self, url: str, headers: Mapping[str, str], request_id: str) -> httpx.Response:
        for _ in range(_REDIRECTS + 1):
            response = await self._client.send("GET", url, request_id, headers)
            status = response.status_code
            if status == 429 or status >= 500:
                raise ToolError(Failure.UNREACHABLE, f"HTTP {status} for {url}")
            if status >= 400:
                raise ToolError(Failure.TOOL_ERROR, f"HTTP {status} for {url}")
            if not response.next_request:
                return response
            here, there = response.request.url, response.next_request.url
            if (here.scheme, here.netloc) != (there.scheme, there.netloc):
                headers = {}  # they were meant for the first host alone
            url = str(there)
        raise ToolError(Failure.TOOL_ERROR, f"more than {_REDIRECTS} redirects, the last to {url}")

    async def aclose(self) -> None:
        await self._client.aclose()


@lru_cache(maxsize=512)
def _read_cached(reader: Reader, html: str, url: str) -> Page:
    return reader(html, url)


def _read(response: httpx.Response, url: str, reader: Reader) -> Page:
    content_type = response.headers.get("Content-Type", "")
    kind = content_type.partition(";")[0].strip().lower() or "text/html"
    if "html" in kind:
        text = decode_page(response.content, content_type)[:PAGE_CHARS]
        return _read_cached(reader, text, url) if len(text) <= _REMEMBERED_CHARS else reader(text, url)
    if kind.startswith("text/") or kind.endswith(("json", "xml")):
        text = decode_page(response.content, content_type)[:PAGE_CHARS]
        return Page(url, split_lines("\n".join(text.splitlines())))
    raise ToolError(Failure.TOOL_ERROR, f"cannot read {kind} at {url}")
