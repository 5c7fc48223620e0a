"""google_search: what a search backend finds, as a short numbered list.

An answer box and a knowledge graph come before the list, where the backend has them. Benchmark data are hidden here
(leak_guard.py), whatever the backend: a corpus that was crawled from the web holds the same hubs as the web. What a
backend itself gets wrong is infrastructure, "no results" is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from mirothinker_jax.config import ToolsConfig
from mirothinker_jax.tools.leak_guard import is_leak
from mirothinker_jax.tools.spec import Failure, ToolError, ToolSpec, object_schema

SPEC = ToolSpec(
    server="search_and_scrape_webpage",
    name="google_search",
    description="Searches the web. Returns titles and addresses of pages, the best match first.",
    parameters=object_schema(
        {
            "q": {"type": "string", "minLength": 1, "description": "what to search for"},
            "gl": {"type": "string", "description": "country of the results, two letters"},
            "hl": {"type": "string", "description": "language of the results, two letters"},
            "location": {"type": "string", "description": "city or region of the searcher"},
            "num": {"type": "integer", "minimum": 1, "maximum": 100, "description": "how many results"},
            "tbs": {"type": "string", "description": "time filter, such as qdr:w for the past week"},
            "page": {"type": "integer", "minimum": 1, "description": "page of results, from 1"},
            "autocorrect": {"type": "boolean", "description": "let the engine correct the spelling"},
        },
        ["q"],
    ),
)


@dataclass(frozen=True)
class Hit:
    """A page that was found. Each field is one line; "" where the backend has nothing."""

    title: str
    url: str
    snippet: str


@dataclass(frozen=True)
class Box:
    """An answer box or a knowledge graph: what it says, and the pages that it says it from."""

    title: str
    said: tuple[str, ...]
    urls: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What a backend answers. `complaint` is what a service says is wrong: with nothing else, it is to blame."""

    hits: tuple[Hit, ...] = ()
    boxes: tuple[Box, ...] = ()
    complaint: str = ""

    @property
    def says_nothing(self) -> bool:
        """Neither a hit nor a box, or only such as have no text."""
        return not any(hit.title or hit.url or hit.snippet for hit in self.hits) and not any(
            text for box in self.boxes for text in box.said
        )


class SearchBackend(Protocol):
    """Where google_search looks."""

    async def search(self, arguments: Mapping[str, Any], count: int, request_id: str) -> Answer:
        """The answer to a call's arguments (SPEC; `num` is there), of which at most `count` hits are shown.

        Raises:
          ToolError: TOOL_ERROR where the query is at fault, NETWORK or DEADLINE where the backend is.
        """
        ...

    async def aclose(self) -> None:
        """Frees connections. The backend may be used again."""
        ...


class GoogleSearch:
    """Shows at most settings.search_results hits; snippets are cut to settings.snippet_chars (0: none)."""

    spec = SPEC

    def __init__(self, backend: SearchBackend, settings: ToolsConfig):
        self._backend = backend
        self._results = settings.search_results
        self._snippet_chars = settings.snippet_chars
        self._refuse = settings.refuse

    async def run(self, arguments: Mapping[str, Any], request_id: str) -> str:
        asked = {"num": self._results, **{name: _whole(value) for name, value in arguments.items()}}
        count = min(self._results, asked["num"])
        answer = await self._backend.search(asked, count, request_id)
        facts = [line for box in answer.boxes for line in self._facts(box)]
        hits = [lines for hit in answer.hits if (lines := self._lines(hit))][:count]
        if not hits and not facts:
            raise ToolError(Failure.NO_RESULTS, f"no results for {arguments['q']}")
        listed = ["\n".join([f"{i}. {hit[0]}", *hit[1:]]) for i, hit in enumerate(hits, start=1)]
        return "\n".join([*facts, *listed])

    def _lines(self, hit: Hit) -> list[str]:
        """Title, address, snippet, as far as the hit has them."""
        if is_leak(hit.url, self._refuse):
            return []
        return [line for line in (hit.title, hit.url, self._cut(hit.snippet)) if line]

    def _facts(self, box: Box) -> list[str]:
        """The box in one or more lines, each as long as a snippet may be."""
        said = [cut for text in box.said if (cut := self._cut(text))]
        if not said or any(is_leak(url, self._refuse) for url in box.urls):
            return []
        return [*([box.title] if box.title else []), *said, *[url for url in box.urls if url][:1]]

    def _cut(self, text: str) -> str:
        return text[: self._snippet_chars].strip()

    async def aclose(self) -> None:
        await self._backend.aclose()


def _whole(value: Any) -> Any:
    """Text without halves of surrogate pairs, which no request can carry."""
    return value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else value
