"""A local corpus as the whole web of the tools: search and pages without a network, the same every time.

Pages are answered below the page tool, in place of the network, so that they are read, cut and guarded like those of
the web. Benchmark data in a corpus are refused and hidden as on the web (leak_guard.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

import httpx

from mirothinker_jax.tools.corpus_index import CorpusIndex
from mirothinker_jax.tools.relevance import asked_terms
from mirothinker_jax.tools.search import Answer, Hit
from mirothinker_jax.tools.spec import Failure, ToolError

_LOOKED_AT_CHARS = 1 << 17  # of a document, for its snippet
_STEM_CHARS = 4  # an asked word is found with other endings, as long as this much of it is there
_ENDING_CHARS = 3
_TERMS = 64  # of a query, and so many places of each
_PLACES = 64


class CorpusSearch:
    """A search.SearchBackend. Of the arguments only `q`, `num` and `page` play a part."""

    def __init__(self, index: CorpusIndex, snippet_chars: int):
        self._index, self._snippet_chars = index, snippet_chars

    async def search(self, arguments: Mapping[str, Any], count: int, request_id: str) -> Answer:
        return await asyncio.to_thread(self._search, arguments["q"], count, arguments.get("page", 1))

    def _search(self, text: str, count: int, page: int) -> Answer:
        found = self._index.find(text, count, count * (page - 1))
        return Answer(tuple(Hit(d.title, d.url, passage(d.text, text, self._snippet_chars)) for d in found))

    async def aclose(self) -> None:
        """Holds nothing open."""


class CorpusTransport(httpx.AsyncBaseTransport):
    """Answers requests from a corpus; there is no other web."""

    def __init__(self, index: CorpusIndex):
        self._index = index

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        document = await asyncio.to_thread(self._index.read, str(request.url))
        if document is None:
            raise ToolError(Failure.TOOL_ERROR, f"not in this corpus: {request.url}")
        body = f"{document.title}\n{document.text}"
        return httpx.Response(
            200, headers={"Content-Type": "text/plain; charset=utf-8"}, content=body.encode()
        )


def passage(text: str, wanted: str, chars: int) -> str:
    """At most `chars` characters of a text, in one line: those with most of the different words asked for.

    >>> passage("It is old. The tower has a height of 330 m.", "height of the tower", 24)
    'tower has a height of 33'
    """
    text = text[:_LOOKED_AT_CHARS]
    if not chars:
        return ""
    lower = text.lower()
    if len(lower) != len(text):  # İ is one letter, and two in lower case
        lower = text
    found = sorted(place for term in asked_terms(wanted)[:_TERMS] for place in _places(lower, _stem(term)))
    best, start, last = 0, 0, 0
    seen: dict[str, int] = {}
    for first, (place, _) in enumerate(found):
        # A window that begins at this word: which others are in it?
        while last < len(found) and found[last][0] < place + chars:
            seen[found[last][1]] = seen.get(found[last][1], 0) + 1
            last += 1
        if len(seen) > best:
            best, start = len(seen), place
        word = found[first][1]
        seen[word] -= 1
        if not seen[word]:
            del seen[word]
    back = max(0, start - chars // 4)  # to where the line begins, if that is near
    line = text.rfind("\n", back, start)
    if line >= 0 or not back:
        start = line + 1
    return " ".join(text[start : start + 2 * chars].split())[:chars]


def _stem(term: str) -> str:
    return term if len(term) <= _STEM_CHARS else term[: max(_STEM_CHARS, len(term) - _ENDING_CHARS)]


def _places(text: str, stem: str) -> Iterator[tuple[int, str]]:
    """Where words begin with `stem`; anywhere, in scripts without spaces."""
    place, count = text.find(stem), 0
    while place >= 0 and count < _PLACES:
        if not stem.isascii() or not text[place - 1 : place].isalnum():
            yield place, stem
            count += 1
        place = text.find(stem, place + 1)
