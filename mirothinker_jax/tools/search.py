"""google_search: a POST to a Serper-shaped endpoint, answered as a short numbered list.

Only organic results are shown; answer boxes and knowledge graphs are left out. Nothing is retried here:
the model sees what failed and decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mirothinker_jax.config import ToolsConfig
from mirothinker_jax.tools.leak_guard import is_leak
from mirothinker_jax.tools.spec import Failure, ToolError, ToolSpec

if TYPE_CHECKING:  # only a run with tools pays for importing HTTP
    from mirothinker_jax.tools.client import WebClient

EMBEDDED_SEARCH_URL = "http://search.test/search"

SPEC = ToolSpec(
    server="search_and_scrape_webpage",
    name="google_search",
    description="Searches the web. Returns titles and addresses of pages, the best match first.",
    parameters={
        "type": "object",
        "properties": {
            "q": {"type": "string", "minLength": 1, "description": "what to search for"},
            "gl": {"type": "string", "description": "country of the results, two letters"},
            "hl": {"type": "string", "description": "language of the results, two letters"},
            "location": {"type": "string", "description": "city or region of the searcher"},
            "num": {"type": "integer", "minimum": 1, "maximum": 100, "description": "how many results"},
            "tbs": {"type": "string", "description": "time filter, such as qdr:w for the past week"},
            "page": {"type": "integer", "minimum": 1, "description": "page of results, from 1"},
            "autocorrect": {"type": "boolean", "description": "let the engine correct the spelling"},
        },
        "required": ["q"],
        "additionalProperties": False,
    },
)


class GoogleSearch:
    """Shows at most settings.search_results hits; snippets are cut to settings.snippet_chars (0: none)."""

    spec = SPEC

    def __init__(self, client: WebClient, settings: ToolsConfig, api_key: str):
        self._client = client
        self._url = settings.search_url or EMBEDDED_SEARCH_URL
        self._results = settings.search_results
        self._snippet_chars = settings.snippet_chars
        self._headers = {"X-API-KEY": api_key}

    async def run(self, arguments: Mapping[str, Any], request_id: str) -> str:
        body = {"num": self._results, **arguments}
        response = await self._client.send("POST", self._url, request_id, self._headers, json=body)
        status = response.status_code
        if status == 400:
            raise ToolError(Failure.TOOL_ERROR, f"the search service refuses this query (HTTP {status})")
        if status != 200:  # also a bad key, a used-up quota: none of it is the model's fault
            raise ToolError(Failure.NETWORK, f"the search service answered HTTP {status}")
        try:
            organic = response.json().get("organic", [])
            hits = [(h.get("title", ""), h["link"], h.get("snippet", "")) for h in organic if "link" in h]
        except (ValueError, AttributeError, TypeError) as error:
            raise ToolError(Failure.NETWORK, "the search service answered something unreadable") from error
        hits = [hit for hit in hits if not is_leak(hit[1])][: min(self._results, body["num"])]
        if not hits:
            raise ToolError(Failure.TOOL_ERROR, f"no results for {arguments['q']}")
        return "\n".join(self._lines(i, *hit) for i, hit in enumerate(hits, start=1))

    def _lines(self, position: int, title: str, url: str, snippet: str) -> str:
        lines = [f"{position}. {' '.join(title.split())}", url]
        cut = " ".join(snippet.split())[: self._snippet_chars].strip()
        return "\n".join([*lines, cut] if cut else lines)

    async def aclose(self) -> None:
        await self._client.aclose()
