"""scrape_and_extract_info: fetches a page and keeps the lines that answer what was asked.

The page comes from its host, or by way of a reader service (jina.py). The extraction is by rules (documents.py) or,
as upstream, by a language model (extractor.py); where that fails, by rules after all. Short pages are read at once, in
the event loop: a millisecond or two. All else, a long page, a PDF, a table, goes to a process (reading_pool.py).
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from mirothinker_jax.config import ToolsConfig, check
from mirothinker_jax.tools.documents import Source, choose_lines, read_page
from mirothinker_jax.tools.extractor import ExtractionFailed, Extractor
from mirothinker_jax.tools.guard import check_headers
from mirothinker_jax.tools.jina import ReaderService
from mirothinker_jax.tools.page_kind import FILE_MARKS, PDF, ZIP, Unreadable, page_kind
from mirothinker_jax.tools.readable import Page
from mirothinker_jax.tools.reading_pool import ReadersBroken, ReadingPool
from mirothinker_jax.tools.spec import Failure, ToolError, ToolSpec, object_schema

if TYPE_CHECKING:  # only a run with tools pays for importing HTTP
    from mirothinker_jax.tools.client import WebClient

logger = logging.getLogger(__name__)

# Read in the event loop, and the lines of the last ones kept: agents reread, and the episodes of a group read the same.
# Lexbor's worst page of this size (elements nested 3,000 deep) takes it 20 ms, and four times that for twice the size.
_SHORT_BYTES = 16_384
_KEPT_PAGES, _KEPT_CHARS = 2_048, 16_384  # a page of many links can have far more characters than bytes
# The host of a slow page is the model's choice: its time ends before the call's does (see executor.py).
_GRACE_S = 1.0
_MOST_S = 10.0  # to read a page: others wait for the process

SPEC = ToolSpec(
    server="jina_scrape_llm_summary",
    name="scrape_and_extract_info",
    description="Reads a web page and returns what it says about the information asked for.",
    parameters=object_schema(
        {
            "url": {"type": "string", "minLength": 1, "description": "address of the page"},
            "info_to_extract": {"type": "string", "minLength": 1, "description": "what to look for"},
            "custom_headers": {
                "type": "object",
                "additionalProperties": {"type": "string"},
                "description": "extra request headers",
            },
        },
        ["url", "info_to_extract"],
    ),
    argument_aliases={"description": "info_to_extract", "introduction": "info_to_extract"},
)


class ScrapePage:
    """Keeps at most settings.scrape_lines lines of a page, or what an extractor makes of it."""

    spec = SPEC

    def __init__(
        self,
        client: WebClient,
        settings: ToolsConfig,
        service: ReaderService | None = None,
        extractor: Extractor | None = None,
    ):
        """Pages come through `service` where there is one, else from their hosts by `client`."""
        assert (settings.reader == "jina") == (service is not None)
        self._client = client
        self._service, self._extractor = service, extractor
        self._lines = settings.scrape_lines
        self._reader = settings.reader
        self._file_bytes = settings.file_bytes
        self._pool = ReadingPool()
        self._extraction_failed = False  # said once in the log
        self._timeout_s = max(settings.deadline_s - _GRACE_S, settings.deadline_s * 0.9)
        self._least_s = (settings.deadline_s - self._timeout_s) / 2  # for a page that came at the last moment
        check(
            settings.reader != "trafilatura" or importlib.util.find_spec("trafilatura") is not None,
            "tools.reader is 'trafilatura', which is not installed: pip install 'mirothinker-jax[tools]'",
        )

    async def run(self, arguments: Mapping[str, Any], request_id: str) -> str:
        url, wanted = arguments["url"].strip(), arguments["info_to_extract"]
        headers = check_headers(arguments.get("custom_headers", {}))
        end = time.monotonic() + self._timeout_s
        if self._service is not None:
            source = await self._service.fetch(url, headers, request_id)
        else:
            source = await self._fetch_in_time(url, headers, request_id)
        left_s = max(self._least_s, end - time.monotonic())
        page = await self._find(source, wanted, self._lines if self._extractor is None else 0, left_s)
        if self._extractor is not None:
            try:
                async with asyncio.timeout(max(0.0, end - time.monotonic())):
                    return f"{page.title}\n{await self._extractor.extract(page, wanted, request_id)}"
            except (ExtractionFailed, TimeoutError) as error:
                self._warn(error)
                page = await asyncio.to_thread(choose_lines, page, wanted, self._lines)
        return "\n".join([page.title, *(page.lines or [f'nothing about "{wanted}"'])])

    def _warn(self, error: Exception) -> None:
        level = logging.DEBUG if self._extraction_failed else logging.WARNING
        self._extraction_failed = True
        reason = str(error) or "no time was left"
        logger.log(level, "the extractor failed (%s); rules choose the lines of such a page", reason)

    async def _fetch_in_time(self, url: str, headers: Mapping[str, str], request_id: str) -> Source:
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await self._client.fetch(url, request_id, headers)
        except TimeoutError as error:
            message = f"no answer from {url} in {self._timeout_s:g} s"
            raise ToolError(Failure.UNREACHABLE, message) from error
        kind = response.headers.get("Content-Type", "")
        return Source(response.content, kind, str(response.request.url), self._reader)

    async def _find(self, source: Source, wanted: str, count: int, seconds: float) -> Page:
        if len(source.body) >= self._file_bytes and source.body.startswith(FILE_MARKS):
            message = f"cannot read {source.url}: a file of more than {self._file_bytes:,} bytes"
            raise ToolError(Failure.TOOL_ERROR, message)
        short = len(source.body) <= _SHORT_BYTES and source.reader == "rules"
        try:
            # No document is ever parsed in this process.
            if short and page_kind(source.body, source.content_type, source.url) not in (PDF, ZIP):
                return choose_lines(_read_at_once(source), wanted, count)
            return await self._pool.find(source, wanted, count, seconds, _MOST_S)
        except Unreadable as error:
            raise ToolError(Failure.TOOL_ERROR, f"cannot read {source.url}: {error}") from error
        except ReadersBroken as error:
            if seconds < self._timeout_s / 2:  # its host left no time to wait for a process
                message = f"{source.url} came too late to be read"
                raise ToolError(Failure.UNREACHABLE, message) from error
            raise ToolError(Failure.NETWORK, str(error)) from error

    async def aclose(self) -> None:
        """Closes connections and ends processes. The tool may be used again."""
        await self._pool.aclose()
        for user in (self._client, self._service, self._extractor):
            if user is not None:
                await user.aclose()


class _TooLarge(Exception):
    """A page that is not kept."""


def _read_at_once(source: Source) -> Page:
    try:
        return _read_small(source)
    except _TooLarge as error:
        return error.args[0]


@lru_cache(maxsize=_KEPT_PAGES)
def _read_small(source: Source) -> Page:
    page = read_page(source, _MOST_S)
    if sum(map(len, page.lines)) > _KEPT_CHARS:
        raise _TooLarge(page)
    return page
