"""Search services by the shape of their API: a call's arguments to a request, and an answer to hits and boxes.

Pure functions; search_http.py sends. Answers have holes (null titles, snippets, links, lists): what is there is
taken. Left out: what a service has no parameter for (`location` but for Serper's; `gl`, `hl` and `autocorrect` of
Tavily, `gl`, `num` and `autocorrect` of SearXNG), and time filters other than qdr:h, d, w, m, y but for Serper's.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit, urlunsplit

from mirothinker_jax.tools.search import Answer, Box, Hit

_PERIODS = {
    "h": "day",
    "d": "day",
    "w": "week",
    "m": "month",
    "y": "year",
}  # of tbs=qdr:…; "past hour" is Google's
_TAVILY_RESULTS = _BRAVE_RESULTS = 20  # of a request, at most
# Brave's own names of some languages; a name that it does not know makes it refuse the query.
_BRAVE_LANGUAGES = {
    "ja": "jp",
    "zh": "zh-hans",
    "zh-cn": "zh-hans",
    "zh-tw": "zh-hant",
    "pt": "pt-pt",
    "no": "nb",
}
_MARKUP = re.compile(r"</?(?:strong|b|em|i)>", re.IGNORECASE)


@dataclass(frozen=True)
class Request:
    """What to send. `json` None: no body."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Any = None


@dataclass(frozen=True)
class Service:
    """A shape. `request` takes address, key, arguments, hits that will be shown; `answer` a JSON object and the last
    two."""

    url: str  # where the public one is; "": there is none
    path: str  # of an address that names only the host
    key_env: str  # environment variable that usually has the key; "": it needs none
    request: Callable[[str, str, Mapping[str, Any], int], Request]
    answer: Callable[[Mapping[str, Any], Mapping[str, Any], int], Answer]
    hints: Mapping[int, str] = field(default_factory=dict)  # HTTP status → what its operator has to do

    def address(self, url: str) -> str:
        """The endpoint: `url`, completed where it has no path, or the public one's.

        >>> SERVICES["searxng"].address("http://127.0.0.1:8080")
        'http://127.0.0.1:8080/search'
        """
        parts = urlsplit(url or self.url)
        return urlunsplit(parts._replace(path=self.path)) if parts.path in ("", "/") else url or self.url


def one_line(value: object) -> str:
    """What a field says, in one line; "" for null and for what is no text."""
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return " ".join(str(value).split())
    if isinstance(value, list):
        return ", ".join(filter(None, (one_line(item) for item in value if not isinstance(item, list))))
    return ""


def complaint(answer: Mapping[str, Any]) -> str:
    """What a service says is wrong, in whichever of the usual fields."""
    for name in ("error", "message", "detail"):
        said = answer.get(name)
        if isinstance(said, dict):
            found = [one_line(said.get(key)) for key in ("code", "error", "message", "detail")]
            said = ": ".join(filter(None, found))
        if text := one_line(said):
            return text
    return ""


def _objects(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _hits(
    results: object, url: str, snippet: str, plain: Callable[[object], str] = one_line
) -> tuple[Hit, ...]:
    """`url` and `snippet` are the names of the fields."""
    return tuple(
        Hit(plain(r.get("title")), one_line(r.get(url)), plain(r.get(snippet))) for r in _objects(results)
    )


def _period(arguments: Mapping[str, Any]) -> str:
    """day, week, month, year or ""."""
    found = re.fullmatch(r"qdr:([hdwmy])\d*", arguments.get("tbs", "").strip())
    return _PERIODS[found[1]] if found else ""


def _with_query(url: str, query: Mapping[str, Any]) -> str:
    """`url` with these parameters after those that it has; None and "" are left out."""
    parts = urlsplit(url)
    added = urlencode({key: value for key, value in query.items() if value not in (None, "")})
    return urlunsplit(parts._replace(query=f"{parts.query}&{added}" if parts.query else added))


# Serper's: also the embedded web's.


def _serper_request(url: str, key: str, arguments: Mapping[str, Any], count: int) -> Request:
    return Request("POST", url, {"X-API-KEY": key}, dict(arguments))


def _serper_answer(answer: Mapping[str, Any], arguments: Mapping[str, Any], count: int) -> Answer:
    boxes = [_serper_box(answer.get(name)) for name in ("answerBox", "knowledgeGraph")]
    return Answer(
        _hits(answer.get("organic"), "link", "snippet"), tuple(filter(None, boxes)), complaint(answer)
    )


def _serper_box(box: object) -> Box | None:
    if isinstance(box, str):
        box = {"answer": box}
    if not isinstance(box, dict):
        return None
    title = ", ".join(filter(None, (one_line(box.get(name)) for name in ("title", "type"))))
    said = [one_line(box.get(name)) for name in ("answer", "snippet", "description")]
    attributes = box.get("attributes")
    if isinstance(attributes, dict):
        said += [f"{name}: {text}" for name, value in attributes.items() if (text := one_line(value))]
    urls = tuple(one_line(box.get(name)) for name in ("link", "website", "descriptionLink"))
    return Box(title, tuple(said), urls)


# SearXNG's: a GET that answers JSON where its settings list that format.


def _searxng_request(url: str, key: str, arguments: Mapping[str, Any], count: int) -> Request:
    query = {
        "q": arguments["q"],
        "format": "json",
        "language": arguments.get("hl"),
        "pageno": arguments.get("page"),
        "time_range": _period(arguments),
    }
    return Request("GET", _with_query(url, query), {"Authorization": f"Bearer {key}"} if key else {})


def _searxng_answer(answer: Mapping[str, Any], arguments: Mapping[str, Any], count: int) -> Answer:
    boxes = []
    listed = answer.get("answers")
    for said in listed if isinstance(listed, list) else []:  # strings in older versions
        found = said if isinstance(said, dict) else {"answer": said}
        boxes.append(Box("", (one_line(found.get("answer")),), (one_line(found.get("url")),)))
    for box in _objects(answer.get("infoboxes")):
        pairs = [
            (one_line(a.get("label")), one_line(a.get("value"))) for a in _objects(box.get("attributes"))
        ]
        said = (
            one_line(box.get("content")),
            *(f"{label}: {text}" for label, text in pairs if label and text),
        )
        urls = tuple(one_line(link.get("url")) for link in _objects(box.get("urls")))
        boxes.append(Box(one_line(box.get("infobox")), said, urls))
    down = answer.get("unresponsive_engines")  # [name, reason] each; no results from them are no results
    names = (
        [" ".join(filter(None, map(one_line, e))) for e in down if isinstance(e, list)]
        if isinstance(down, list)
        else []
    )
    trouble = complaint(answer) or (f"engines do not respond: {', '.join(names)}" if names else "")
    return Answer(_hits(answer.get("results"), "url", "content"), tuple(boxes), trouble)


# Tavily's: one page of at most 20; a later page is the end of a longer first one.


def _tavily_request(url: str, key: str, arguments: Mapping[str, Any], count: int) -> Request:
    body = {"query": arguments["q"], "max_results": min(_TAVILY_RESULTS, count * arguments.get("page", 1))}
    if period := _period(arguments):
        body["time_range"] = period
    # The header is today's way, the field that of older versions.
    return Request("POST", url, {"Authorization": f"Bearer {key}"}, body | {"api_key": key})


def _tavily_answer(answer: Mapping[str, Any], arguments: Mapping[str, Any], count: int) -> Answer:
    said = one_line(answer.get("answer"))
    hits = _hits(answer.get("results"), "url", "content")[count * (arguments.get("page", 1) - 1) :]
    return Answer(hits, (Box("", (said,)),) if said else (), complaint(answer))


# Brave's: text comes as HTML.


def _brave_request(url: str, key: str, arguments: Mapping[str, Any], count: int) -> Request:
    language = arguments.get("hl", "").lower()
    period, correct = _period(arguments), arguments.get("autocorrect")
    query = {
        "q": arguments["q"],
        "count": min(_BRAVE_RESULTS, count),
        "offset": arguments.get("page", 1) - 1 or None,  # in pages
        "country": arguments.get("gl", "").upper(),
        "search_lang": _BRAVE_LANGUAGES.get(language, language),
        "freshness": f"p{period[0]}" if period else "",
        "spellcheck": None if correct is None else str(correct).lower(),
        "text_decorations": "false",
    }
    return Request(
        "GET", _with_query(url, query), {"X-Subscription-Token": key, "Accept": "application/json"}
    )


def _brave_answer(answer: Mapping[str, Any], arguments: Mapping[str, Any], count: int) -> Answer:
    web, infobox = (
        found if isinstance(found := answer.get(name), dict) else {} for name in ("web", "infobox")
    )
    boxes = []
    for box in _objects(infobox.get("results")):
        pairs = box.get("attributes")
        rows = [row for row in pairs if isinstance(row, list)] if isinstance(pairs, list) else []
        said = [
            _plain(box.get("long_desc")) or _plain(box.get("description")),
            *(": ".join(map(_plain, row)) for row in rows),
        ]
        urls = tuple(one_line(box.get(name)) for name in ("website_url", "url"))
        boxes.append(Box(_plain(box.get("title")), tuple(said), tuple(filter(None, urls))))
    return Answer(_hits(web.get("results"), "url", "description", _plain), tuple(boxes), complaint(answer))


def _plain(value: object) -> str:
    return one_line(html.unescape(_MARKUP.sub("", one_line(value))))


SERVICES = {
    "serper": Service(
        *("https://google.serper.dev/search", "/search", "SERPER_API_KEY", _serper_request, _serper_answer)
    ),
    "searxng": Service(
        *("", "/search", "", _searxng_request, _searxng_answer),
        {403: "a SearXNG answers in JSON only when search.formats in its settings.yml lists json"},
    ),
    "tavily": Service(
        *("https://api.tavily.com/search", "/search", "TAVILY_API_KEY", _tavily_request, _tavily_answer)
    ),
    "brave": Service(
        "https://api.search.brave.com/res/v1/web/search",
        *("/res/v1/web/search", "BRAVE_API_KEY", _brave_request, _brave_answer),
    ),
}
