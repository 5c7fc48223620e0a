"""google_search: a POST to a Serper-shaped endpoint, answered as a short numbered list.

An answer box and a knowledge graph come before the list, where the service has them. The service's answers have
holes (null titles, snippets, links, lists): what is there is shown. Nothing is retried here: the model sees what
failed and decides. What the service itself gets wrong is infrastructure, "no results" is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mirothinker_jax.config import ToolsConfig
from mirothinker_jax.tools.leak_guard import is_leak
from mirothinker_jax.tools.spec import Failure, ToolError, ToolSpec

if TYPE_CHECKING:  # only a run with tools pays for importing HTTP
    from mirothinker_jax.tools.client import WebClient

_REFUSED = (400, 413, 414, 422)  # the query's own fault
_COMPLAINT_CHARS = 200
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
        response = await self._client.send(
            "POST", self._url, request_id, self._headers, json=body, service=True
        )
        status = response.status_code
        if status in _REFUSED:
            raise ToolError(Failure.TOOL_ERROR, f"the search service refuses this query (HTTP {status})")
        if status != 200:  # also a bad key, a used-up quota: none of it is the model's fault
            raise ToolError(Failure.NETWORK, f"the search service answered HTTP {status}")
        try:
            answer = response.json()
        except (ValueError, RecursionError) as error:
            raise ToolError(Failure.NETWORK, "the search service answered something unreadable") from error
        if not isinstance(answer, dict):
            raise ToolError(Failure.NETWORK, "the search service answered something unreadable")
        facts = [line for name in ("answerBox", "knowledgeGraph") for line in self._facts(answer.get(name))]
        hits = self._hits(answer.get("organic"))[: min(self._results, body["num"])]
        if not hits and not facts:
            if complaint := _text(answer.get("error")) or _text(answer.get("message")):
                raise ToolError(
                    Failure.NETWORK, f"the search service answered: {complaint[:_COMPLAINT_CHARS]}"
                )
            raise ToolError(Failure.TOOL_ERROR, f"no results for {arguments['q']}")
        listed = ["\n".join([f"{i}. {hit[0]}", *hit[1:]]) for i, hit in enumerate(hits, start=1)]
        return "\n".join([*facts, *listed])

    def _hits(self, organic: object) -> list[list[str]]:
        """The lines of each hit: title, address, snippet, as far as it has them."""
        hits = []
        for hit in organic if isinstance(organic, list) else []:
            if not isinstance(hit, dict):
                continue
            title, url, snippet = (_text(hit.get(name)) for name in ("title", "link", "snippet"))
            lines = [line for line in (title, url, snippet[: self._snippet_chars].strip()) if line]
            if lines and not is_leak(url):
                hits.append(lines)
        return hits

    def _facts(self, box: object) -> list[str]:
        """An answer box or a knowledge graph in one or more lines, each as long as a snippet may be."""
        if isinstance(box, str):
            box = {"answer": box}
        if not isinstance(box, dict):
            return []
        urls = [_text(box.get(name)) for name in ("link", "website", "descriptionLink")]
        if any(is_leak(url) for url in urls):
            return []
        title = ", ".join(filter(None, (_text(box.get(name)) for name in ("title", "type"))))
        said = [_text(box.get(name)) for name in ("answer", "snippet", "description")]
        attributes = box.get("attributes")
        if isinstance(attributes, dict):
            said += [f"{name}: {_text(value)}" for name, value in attributes.items() if _text(value)]
        said = [cut for text in said if (cut := text[: self._snippet_chars].strip())]
        if not said:
            return []
        return [*([title] if title else []), *said, *[url for url in urls if url][:1]]

    async def aclose(self) -> None:
        await self._client.aclose()


def _text(value: object) -> str:
    """What a field says, in one line; "" for null and for what is no text."""
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return " ".join(str(value).split())
    if isinstance(value, list):
        return ", ".join(filter(None, (_text(item) for item in value if not isinstance(item, list))))
    return ""
