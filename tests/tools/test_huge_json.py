"""JSON that is too deep, too wide or no JSON: in the arguments of a call, and in a search service's answer."""

import asyncio
import json

import httpx
import pytest

from mirothinker_jax.config import ToolsConfig
from mirothinker_jax.tools.browse import ScrapePage
from mirothinker_jax.tools.client import WebClient
from mirothinker_jax.tools.executor import ToolExecutor
from mirothinker_jax.tools.search import GoogleSearch
from mirothinker_jax.tools.search_http import HttpSearch
from mirothinker_jax.tools.search_services import SERVICES
from mirothinker_jax.tools.spec import ToolCall


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


HUGE = {
    "deep": nested(900),
    "deeper": nested(100_000),
    "deep objects": {"a": {"b": nested(900)}},
    "wide": ["x"] * 100_000,
    "long": "x" * 1_000_000,
    "many names": {str(i): "x" for i in range(50_000)},
    "a number without an end": 10**5_000,
    "no number": float("nan"),
    "infinity": float("inf"),
    "lone surrogates": "\ud800\udfff\udfff",
    "null bytes": "\0" * 1_000,
}


@pytest.mark.parametrize("value", HUGE.values(), ids=HUGE)
@pytest.mark.parametrize("argument", ["url", "info_to_extract", "custom_headers", "made_up"])
def test_arguments_of_any_size_and_depth_are_answered_shortly(value, argument):
    def answer(request):
        return httpx.Response(200, text="north", headers={"Content-Type": "text/plain"})

    settings = ToolsConfig(cache=argument == "url")
    tool = ScrapePage(WebClient(transport=httpx.MockTransport(answer)), settings)
    executor = ToolExecutor([tool], settings, lambda text, tokens: (text, False))

    async def execute():
        arguments = {"url": "http://a.test/", "info_to_extract": "north"} | {argument: value}
        return await executor.execute(ToolCall(tool.spec.server, tool.spec.name, arguments), "e:0.0")

    result = asyncio.run(execute())
    assert result.failure is None or not result.failure.infrastructure
    assert result.failure is not None or argument == "info_to_extract"
    result.text.encode()


SEARCHES = {
    "deep": "[" * 100_000,
    "deep objects": '{"organic":' * 50_000,
    "a number without an end": '{"organic": ' + "9" * 100_000 + "}",
    "a huge exponent": '{"organic": [{"title": 1e999999, "link": "http://a.test/"}]}',
    "cut": json.dumps({"organic": [{"title": "x" * 100_000}]})[:-5],
    "deep title": json.dumps({"organic": [{"title": nested(200), "link": "http://a.test/"}]}),
    "wide": json.dumps({"organic": [{"title": f"{i}", "link": "http://a.test/"} for i in range(20_000)]}),
    "deep attributes": json.dumps({"knowledgeGraph": {"attributes": {"a": nested(400)}}}),
    "lone surrogate": '{"organic": [{"title": "\\ud800", "link": "http://a.test/\\udfff"}]}',
    "null bytes": '{"organic": [{"title": "\\u0000", "link": "http://a.test/"}]}',
    "not UTF-8": b'{"organic": "\xff\xfe"}',
    "other types": '{"organic": {"title": true}, "answerBox": [[]], "knowledgeGraph": 7}',
}


@pytest.mark.parametrize("body", SEARCHES.values(), ids=SEARCHES)
def test_search_answers_of_any_size_and_depth(body):
    client = WebClient(transport=httpx.MockTransport(lambda request: httpx.Response(200, content=body)))
    settings = ToolsConfig()
    service = HttpSearch(client, SERVICES["serper"], "http://search.test", "k", 30.0)
    executor = ToolExecutor([GoogleSearch(service, settings)], settings, lambda t, n: (t, False))
    call = ToolCall("search_and_scrape_webpage", "google_search", {"q": "x"})
    result = asyncio.run(executor.execute(call, "e:0.0"))
    assert len(result.text) < 30_000
    result.text.encode()
