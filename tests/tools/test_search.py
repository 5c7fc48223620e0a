"""google_search over a Serper-shaped service: what the model sees, and whose fault it is when there is nothing."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from mirothinker_jax.config import ToolsConfig
from mirothinker_jax.tools.client import WebClient
from mirothinker_jax.tools.search import GoogleSearch
from mirothinker_jax.tools.search_http import HttpSearch
from mirothinker_jax.tools.search_services import SERVICES
from mirothinker_jax.tools.spec import Failure, ToolError


def search(answer, arguments, settings=None, api_key="k") -> tuple[Any, list[httpx.Request]]:
    settings, seen = settings or ToolsConfig(), []

    def handler(request):
        seen.append(request)
        return answer(request)

    client = WebClient(transport=httpx.MockTransport(handler))
    url = settings.search_url or "http://search.test/search"
    tool = GoogleSearch(HttpSearch(client, SERVICES["serper"], url, api_key, 30.0), settings)
    try:
        return asyncio.run(tool.run(arguments, "e:0.0")), seen
    except ToolError as error:
        return error, seen


def organic(*hits):
    return lambda request: httpx.Response(
        200, json={"organic": [{"title": t, "link": u, "snippet": s} for t, u, s in hits]}
    )


HITS = [(f"T\n{i}", f"http://a.test/{i}", f"some  words {i}") for i in range(4)]


def test_search_text_and_request():
    text, (request,) = search(
        organic(*HITS), {"q": "x", "gl": "us", "page": 2}, ToolsConfig(search_results=2)
    )
    assert text == "1. T 0\nhttp://a.test/0\nsome words 0\n2. T 1\nhttp://a.test/1\nsome words 1"
    assert (request.method, str(request.url)) == ("POST", "http://search.test/search")
    assert (request.headers["X-API-KEY"], request.headers["X-Request-Id"]) == ("k", "e:0.0")
    assert json.loads(request.content) == {"q": "x", "gl": "us", "page": 2, "num": 2}


def test_search_num_snippets_and_address():
    settings = ToolsConfig(search_results=3, snippet_chars=0, search_url="https://serper.test/s")
    text, (request,) = search(organic(*HITS), {"q": "x", "num": 1}, settings)
    assert text == "1. T 0\nhttp://a.test/0"
    assert str(request.url) == "https://serper.test/s"
    text, _ = search(organic(*HITS), {"q": "x", "num": 9}, ToolsConfig(snippet_chars=5, search_results=3))
    assert text.count("http") == 3
    assert text.splitlines()[2] == "some"


def test_search_hides_benchmark_data():
    hits = [("D", "https://huggingface.co/datasets/a/b", ""), *HITS[:1]]
    text, _ = search(organic(*hits), {"q": "x"}, ToolsConfig(snippet_chars=0))
    assert text == "1. T 0\nhttp://a.test/0"


@pytest.mark.parametrize(
    ("answer", "failure", "message"),
    [
        (organic(), Failure.NO_RESULTS, "no results for x y"),
        (organic(("D", "https://hf.co/datasets/a", "")), Failure.NO_RESULTS, "no results for x y"),
        (lambda r: httpx.Response(400, json={}), Failure.TOOL_ERROR, "HTTP 400"),
        (lambda r: httpx.Response(403, json={}), Failure.NETWORK, "HTTP 403"),
        (lambda r: httpx.Response(429), Failure.NETWORK, "HTTP 429"),
        (lambda r: httpx.Response(503), Failure.NETWORK, "HTTP 503"),
        (lambda r: httpx.Response(200, text="<html>"), Failure.NETWORK, "unreadable"),
        (lambda r: httpx.Response(200, json=[1]), Failure.NETWORK, "unreadable"),
        (lambda r: httpx.Response(200, json=None), Failure.NETWORK, "unreadable"),
        (lambda r: httpx.Response(200, text="[" * 100_000), Failure.NETWORK, "unreadable"),
        (
            lambda r: httpx.Response(200, json={"message": "Not enough credits"}),
            Failure.NETWORK,
            "Not enough credits",
        ),
        (lambda r: httpx.Response(413), Failure.TOOL_ERROR, "refuses this query"),
        *[
            (
                lambda r, organic=organic: httpx.Response(200, json={"organic": organic}),
                Failure.NO_RESULTS,
                "no results",
            )
            for organic in (None, {}, "none", [3, "x", None, []], [{}], [{"title": None, "link": None}])
        ],
    ],
)
def test_search_failures(answer, failure, message):
    error, _ = search(answer, {"q": "x y"})
    assert isinstance(error, ToolError)
    assert error.failure is failure and message in str(error)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (
            {
                "organic": [
                    {"title": "A", "link": "http://a.test", "snippet": "s"},
                    {"title": "B", "link": "http://b.test", "snippet": None},
                ]
            },
            "1. A\nhttp://a.test\ns\n2. B\nhttp://b.test",
        ),
        ({"organic": [{"title": None, "link": "http://b.test", "snippet": "s"}]}, "1. http://b.test\ns"),
        ({"organic": [{"title": "T", "link": None, "snippet": "s"}]}, "1. T\ns"),
        (
            {"organic": [3, {"title": 1984, "link": "http://a.test", "snippet": ["a", None]}]},
            "1. 1984\nhttp://a.test\na",
        ),
        ({"organic": [{"title": {"a": 1}, "link": "http://a.test"}]}, "1. http://a.test"),
        ({"answerBox": {"answer": "330 m"}, "organic": []}, "330 m"),
        (
            {
                "answerBox": {"title": "Height", "snippet": "It is\n330 m high.", "link": "http://t.test"},
                "organic": None,
            },
            "Height\nIt is 330 m high.\nhttp://t.test",
        ),
        ({"answerBox": "330 m"}, "330 m"),
        (
            {
                "knowledgeGraph": {
                    "title": "Tower",
                    "type": None,
                    "attributes": {"Height": "330 m", "Floors": 3, "x": None},
                },
                "organic": [{"title": "A", "link": "http://a.test"}],
            },
            "Tower\nHeight: 330 m\nFloors: 3\n1. A\nhttp://a.test",
        ),
        (
            {
                "answerBox": {"answer": "leak", "link": "https://huggingface.co/datasets/a/b"},
                "knowledgeGraph": [],
                "organic": [{"title": "A", "link": "http://a.test"}],
            },
            "1. A\nhttp://a.test",
        ),
    ],
)
def test_search_shows_what_is_there(answer, text):
    assert search(lambda request: httpx.Response(200, json=answer), {"q": "x"})[0] == text


def test_what_the_run_refuses_is_not_shown():
    hits = [("A", "http://a.test", ""), ("B", "http://b.test/some-bench", "")]
    text, _ = search(organic(*hits), {"q": "x"}, ToolsConfig(refuse=("some-bench",)))
    assert text == "1. A\nhttp://a.test"


def test_no_snippets_is_no_answer_box():
    answer = {
        "answerBox": {"title": "Height", "answer": "330 m"},
        "organic": [{"title": "A", "link": "http://a.test"}],
    }
    text, _ = search(
        lambda request: httpx.Response(200, json=answer), {"q": "x"}, ToolsConfig(snippet_chars=0)
    )
    assert text == "1. A\nhttp://a.test"
