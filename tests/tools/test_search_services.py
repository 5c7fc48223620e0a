"""Search services of four shapes: the request that each gets, what is taken from its answer, and its failures."""

import asyncio
import email.utils
import time
from typing import Any

import httpx
import pytest
from aiohttp import web
from net import INSIDE

from mirothinker_jax.config import ConfigError, ToolsConfig
from mirothinker_jax.tools.build import build_tools, check_tools, key_env
from mirothinker_jax.tools.client import WebClient
from mirothinker_jax.tools.search import Answer, Box, GoogleSearch, Hit
from mirothinker_jax.tools.search_http import HttpSearch
from mirothinker_jax.tools.search_services import SERVICES
from mirothinker_jax.tools.spec import Failure, ToolError

ALL = {"q": "a b&c", "gl": "us", "hl": "ja", "num": 9, "tbs": "qdr:m2", "page": 3, "autocorrect": False}
SEARXNG, TAVILY, BRAVE = "http://127.0.0.1:8080", "https://api.tavily.com/search", SERVICES["brave"].url


@pytest.mark.parametrize(
    ("name", "url", "arguments", "method", "sent", "headers", "body"),
    [
        ("serper", "", ALL, "POST", "https://google.serper.dev/search", {"X-API-KEY": "k"}, ALL),
        (
            "serper",
            "http://s.test/",
            {"q": "x"},
            "POST",
            "http://s.test/search",
            {"X-API-KEY": "k"},
            {"q": "x"},
        ),
        (
            *("searxng", SEARXNG, ALL, "GET"),
            f"{SEARXNG}/search?q=a+b%26c&format=json&language=ja&pageno=3&time_range=month",
            *({"Authorization": "Bearer k"}, None),
        ),
        (
            *(
                "searxng",
                "http://s.test/sx/search?engines=bing",
                {"q": "x", "tbs": "cdr:1,cd_min:1/1/2020"},
                "GET",
            ),
            "http://s.test/sx/search?engines=bing&q=x&format=json",
            *({"Authorization": "Bearer k"}, None),
        ),
        (
            *("tavily", "", ALL, "POST", TAVILY, {"Authorization": "Bearer k"}),
            {"query": "a b&c", "max_results": 12, "time_range": "month", "api_key": "k"},
        ),
        (
            *("tavily", "", {"q": "x", "page": 9}, "POST", TAVILY, {"Authorization": "Bearer k"}),
            {"query": "x", "max_results": 20, "api_key": "k"},
        ),
        (
            *("brave", "", ALL, "GET"),
            f"{BRAVE}?q=a+b%26c&count=4&offset=2&country=US&search_lang=jp&freshness=pm&spellcheck=false"
            "&text_decorations=false",
            *({"X-Subscription-Token": "k", "Accept": "application/json"}, None),
        ),
        (
            *("brave", "http://s.test", {"q": "x", "hl": "fr"}, "GET"),
            "http://s.test/res/v1/web/search?q=x&count=4&search_lang=fr&text_decorations=false",
            *({"X-Subscription-Token": "k", "Accept": "application/json"}, None),
        ),
    ],
)
def test_requests(name, url, arguments, method, sent, headers, body):
    service = SERVICES[name]
    request = service.request(service.address(url), "k", arguments, 4)
    assert (request.method, request.url, request.headers, request.json) == (method, sent, headers, body)


def test_no_key_is_sent_where_there_is_none():
    assert SERVICES["searxng"].request(SEARXNG, "", {"q": "x"}, 4).headers == {}


A, B = Hit("A", "http://a.test", "s t"), Hit("", "http://b.test", "")
HOLES = [
    {"title": "A", "url": "http://a.test", "content": "s\nt"},
    None,
    3,
    {"title": None, "url": "http://b.test"},
]


@pytest.mark.parametrize(
    ("name", "answer", "expected"),
    [
        ("searxng", {"results": HOLES, "answers": [], "infoboxes": None}, Answer((A, B))),
        *[("searxng", {"results": none}, Answer()) for none in (None, {}, "none", [])],
        (
            "searxng",
            {
                "results": HOLES[:1],
                "answers": ["330 m", {"answer": "1889", "url": "http://t.test"}, None],
                "infoboxes": [
                    {
                        "infobox": "Tower",
                        "content": None,
                        "attributes": [
                            {"label": "Height", "value": "330 m"},
                            {"label": "x", "value": None},
                            7,
                        ],
                        "urls": [{"title": "T", "url": "http://t.test"}],
                    }
                ],
                "unresponsive_engines": [],
            },
            Answer(
                (A,),
                (
                    Box("", ("330 m",), ("",)),
                    Box("", ("1889",), ("http://t.test",)),
                    Box("", ("",), ("",)),
                    Box("Tower", ("", "Height: 330 m"), ("http://t.test",)),
                ),
            ),
        ),
        (
            "searxng",
            {"results": [], "unresponsive_engines": [["google", "Suspended: CAPTCHA"], ["bing", None], 3]},
            Answer(complaint="engines do not respond: google Suspended: CAPTCHA, bing"),
        ),
        ("tavily", {"answer": None, "results": HOLES}, Answer((A, B))),
        ("tavily", {"answer": "330 m", "results": None}, Answer((), (Box("", ("330 m",)),))),
        ("tavily", {"detail": {"error": "usage limit"}}, Answer(complaint="usage limit")),
        (
            "brave",
            {
                "web": {
                    "results": [
                        {
                            "title": "A &amp; <strong>B</strong>",
                            "url": "http://a.test/?x=1&amp=2",
                            "description": "it&#x27;s",
                        },
                        {"title": "C", "url": None, "description": None},
                    ]
                },
                "infobox": {
                    "results": [
                        {
                            "title": "Tower",
                            "long_desc": None,
                            "description": "<b>High</b>",
                            "attributes": [["Height", "<i>330</i> m"], None],
                            "url": "http://t.test",
                        }
                    ]
                },
            },
            Answer(
                (Hit("A & B", "http://a.test/?x=1&amp=2", "it's"), Hit("C", "", "")),
                (Box("Tower", ("High", "Height: 330 m"), ("http://t.test",)),),
            ),
        ),
        *[
            ("brave", {"web": none, "infobox": none}, Answer())
            for none in (None, {}, [], "none", {"results": None})
        ],
        (
            "brave",
            {"error": {"code": "RATE_LIMITED", "detail": "slow down", "status": 429}},
            Answer(complaint="RATE_LIMITED: slow down"),
        ),
    ],
)
def test_answers(name, answer, expected):
    assert SERVICES[name].answer(answer, {"q": "x"}, 4) == expected


def test_a_later_page_of_a_service_without_pages():
    answer = {"results": [{"title": str(i), "url": f"http://a.test/{i}"} for i in range(8)]}
    found = SERVICES["tavily"].answer(answer, {"q": "x", "page": 2}, 5)
    assert [hit.title for hit in found.hits] == ["5", "6", "7"]


def search(name, *answers, deadline_s=5.0) -> tuple[Any, list[httpx.Request]]:
    """What google_search says when a service gives these answers one after the other."""
    left, seen = list(answers), []

    def handle(request):
        seen.append(request)
        return left.pop(0)

    client = WebClient(transport=httpx.MockTransport(handle))
    backend = HttpSearch(client, SERVICES[name], "http://s.test", "secret-key", deadline_s)
    try:
        return asyncio.run(GoogleSearch(backend, ToolsConfig()).run({"q": "x"}, "e:0.0")), seen
    except ToolError as error:
        return error, seen


LEAK = {"title": "D", "url": "https://huggingface.co/datasets/a/b", "content": "42", "description": "42"}
PAGE = {"title": "A", "url": "http://a.test", "content": "s", "description": "s"}


@pytest.mark.parametrize("name", ["searxng", "tavily", "brave"])
def test_what_the_model_sees(name):
    found = [LEAK, PAGE]
    text, (request,) = search(name, httpx.Response(200, json={"web": {"results": found}, "results": found}))
    assert text == "1. A\nhttp://a.test\ns"
    assert request.headers["X-Request-Id"] == "e:0.0"


@pytest.mark.parametrize(
    ("name", "response", "failure", "message"),
    [
        (
            "searxng",
            httpx.Response(403),
            Failure.NETWORK,
            "HTTP 403: a SearXNG answers in JSON only when search.formats",
        ),
        ("searxng", httpx.Response(429, text="Too Many Requests"), Failure.NETWORK, "answered HTTP 429"),
        ("searxng", httpx.Response(200, html="<h1>SearXNG</h1>"), Failure.NETWORK, "unreadable (text/html)"),
        ("searxng", httpx.Response(200, json={"results": []}), Failure.NO_RESULTS, "no results for x"),
        (
            *(
                "searxng",
                httpx.Response(200, json={"results": [], "unresponsive_engines": [["g", "timeout"]]}),
            ),
            *(Failure.NETWORK, "the search service answered: engines do not respond: g timeout"),
        ),
        (
            *(
                "tavily",
                httpx.Response(432, json={"detail": {"error": "exceeds your plan"}}),
                Failure.NETWORK,
            ),
            "the search service answered HTTP 432: exceeds your plan",
        ),
        (
            *(
                "tavily",
                httpx.Response(401, json={"detail": {"error": "bad key secret-key"}}),
                Failure.NETWORK,
            ),
            "the search service answered HTTP 401: bad key …",
        ),
        (
            *(
                "tavily",
                httpx.Response(400, json={"detail": {"error": "Query is too long."}}),
                Failure.TOOL_ERROR,
            ),
            "refuses this query (HTTP 400): Query is too long.",
        ),
        (
            "serper",
            httpx.Response(400, json={"message": "Not enough credits"}),
            Failure.NETWORK,
            "Not enough credits",
        ),
        (
            *(
                "brave",
                httpx.Response(422, json={"error": {"code": "SUBSCRIPTION_TOKEN_INVALID"}}),
                Failure.NETWORK,
            ),
            "HTTP 422: SUBSCRIPTION_TOKEN_INVALID",
        ),
        (
            "brave",
            httpx.Response(422, json={"error": {"code": "VALIDATION"}}),
            Failure.TOOL_ERROR,
            "VALIDATION",
        ),
        ("brave", httpx.Response(502, html="<h1>Bad gateway</h1>"), Failure.NETWORK, "answered HTTP 502"),
        (
            "brave",
            httpx.Response(429, headers={"Retry-After": "60"}),
            Failure.NETWORK,
            "HTTP 429",
        ),  # after the deadline
        ("brave", httpx.Response(429, headers={"Retry-After": "soon"}), Failure.NETWORK, "HTTP 429"),
        ("brave", httpx.Response(500, headers={"Retry-After": "0"}), Failure.NETWORK, "HTTP 500"),
    ],
)
def test_failures(name, response, failure, message, caplog):
    error, seen = search(name, response)
    assert isinstance(error, ToolError) and len(seen) == 1
    assert error.failure is failure and message in str(error)
    assert (
        "s.test (tools.search_url)" in caplog.text
    ) is failure.infrastructure and "secret-key" not in caplog.text


def test_a_service_that_says_when_to_come_back_is_asked_again():
    past = email.utils.formatdate(time.time() - 60, usegmt=True)
    busy = [
        httpx.Response(429, headers={"Retry-After": "0"}),
        httpx.Response(503, headers={"Retry-After": past}),
    ]
    text, seen = search("brave", *busy, httpx.Response(200, json={"web": {"results": [PAGE]}}))
    assert text == "1. A\nhttp://a.test\ns" and len(seen) == 3


def test_where_it_is_stays_with_whoever_runs_it():
    def refuse(request):
        raise httpx.ConnectError("refused")

    client = WebClient(transport=httpx.MockTransport(refuse))
    backend = HttpSearch(client, SERVICES["searxng"], "http://me:password@s.test/in?token=1", "", 5.0)
    with pytest.raises(ToolError, match=r"^cannot reach http://s\.test: refused$"):
        asyncio.run(backend.search({"q": "x"}, 4, "e:0.0"))


def test_it_is_not_asked_after_the_deadline():
    busy = [httpx.Response(429, headers={"Retry-After": "0"}) for _ in range(9)]
    error, seen = search("brave", *busy, deadline_s=0.6)
    assert error.failure is Failure.NETWORK and 1 < len(seen) < 9


@pytest.mark.parametrize(
    ("settings", "backend", "key"),
    [
        ({}, "world", ""),
        ({"search_url": "http://s.test"}, "serper", "SERPER_API_KEY"),
        ({"search": "tavily"}, "tavily", "TAVILY_API_KEY"),
        ({"search": "brave", "search_key_env": "MINE"}, "brave", "MINE"),
        ({"search": "searxng", "search_url": "http://s.test"}, "searxng", ""),
        ({"search": "searxng", "search_url": "http://s.test", "search_key_env": "MINE"}, "searxng", "MINE"),
        ({"corpus": "docs"}, "corpus", ""),
    ],
)
def test_the_backend_and_its_key(settings, backend, key):
    config = ToolsConfig(names=("google_search",), **settings)
    assert (config.search_backend, key_env(config)) == (backend, key)
    if key:
        for wrong in (lambda: check_tools(config, ""), lambda: build_tools(config, None, "")):
            with pytest.raises(ConfigError, match=f"set the environment variable {key} "):
                wrong()
    if backend not in ("world", "corpus"):
        (tool,) = build_tools(config, None, "k")
        assert isinstance(tool, GoogleSearch)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {"search": "bing"},
            r"tools\.search is 'bing'; choose one of world, serper, searxng, tavily, brave, corpus",
        ),
        ({"search": "searxng"}, r"tools\.search_url is empty, and there is no SearXNG for everyone"),
        ({"search": "corpus"}, r"tools\.corpus is '' and tools\.search 'corpus'"),
        ({"search": "serper", "corpus": "d"}, r"tools\.corpus is 'd' and tools\.search 'serper'"),
        ({"search": "world", "search_url": "http://s.test"}, r"tools\.search 'world', which asks no service"),
        ({"corpus": "d", "search_url": "http://s.test"}, r"tools\.search 'corpus', which asks no service"),
    ],
)
def test_contradictions(settings, expected):
    with pytest.raises(ConfigError, match=expected):
        ToolsConfig(**settings)


@pytest.mark.parametrize("name", ["searxng", "brave"])
def test_a_query_arrives_as_it_was_asked(net, name):
    """Over a socket, on an address that no page could be at."""
    asked = []

    def answer(request):
        asked.append((request.query["q"], request.headers["X-Request-Id"]))
        return web.json_response({"results": [PAGE], "web": {"results": [PAGE]}})

    net.answer = answer
    query = 'ü+ä & "100%" #1 東京?/\\ a=b;c \ud800'

    async def use(client, port):
        url = f"http://{INSIDE}:{port}"
        settings = ToolsConfig(names=("google_search",), search=name, search_url=url)
        (tool,) = build_tools(settings, None, "k")
        assert isinstance(tool, GoogleSearch)
        text = await tool.run({"q": query}, "e:0.0")
        await tool.aclose()
        return text

    assert net.run(use) == "1. A\nhttp://a.test\ns"
    assert asked == [(query.replace("\ud800", "?"), "e:0.0")]
