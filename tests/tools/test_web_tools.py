"""scrape_and_extract_info against scripted answers, and the tools against the embedded web."""

import asyncio

import httpx
import pytest

from mirothinker_jax.config import ConfigError, ToolsConfig, WorldConfig
from mirothinker_jax.tools.browse import ScrapePage
from mirothinker_jax.tools.build import build_tools
from mirothinker_jax.tools.client import WebClient
from mirothinker_jax.tools.executor import ToolExecutor
from mirothinker_jax.tools.spec import Failure, ToolCall, ToolError
from mirothinker_jax.world.facts import load_world
from mirothinker_jax.world.server import WorldServer


def serve(answer):
    """A client whose network is the function `answer(request)`; and the requests it has seen."""
    seen = []

    def handler(request):
        seen.append(request)
        return answer(request)

    return WebClient(transport=httpx.MockTransport(handler)), seen


PAGE = """<html><head><title>The
 Page</title></head><body><nav><a href="/n">north pole</a></nav><h1>The Page</h1>
<table><tr><th>city</th><td>Paris</td></tr><tr><th>name</th><td>North Bay</td></tr></table>
<ul><li>north: <a href="/LUA">LUA</a></li></ul><script>north()</script></body></html>"""


def html(text, status=200, **headers):
    return lambda request: httpx.Response(
        status, content=text.encode(), headers={"Content-Type": "text/html"} | headers
    )


def scrape(answer, url="http://a.test/p", info="north", settings=None, **arguments):
    client, seen = serve(answer)
    tool = ScrapePage(client, settings or ToolsConfig())
    try:
        return asyncio.run(tool.run({"url": url, "info_to_extract": info, **arguments}, "e:0.0")), seen
    except ToolError as error:
        return error, seen


def test_scrape():
    text, (request,) = scrape(html(PAGE))
    assert text == "The Page\nnorth: [LUA](http://a.test/LUA)\nname: North Bay"
    assert request.method == "GET" and "X-Request-Id" not in request.headers
    text, _ = scrape(html(PAGE), settings=ToolsConfig(scrape_lines=1))
    assert text == "The Page\nnorth: [LUA](http://a.test/LUA)"
    assert scrape(html(PAGE), info="What is the city?")[0] == "The Page\ncity: Paris"
    assert scrape(html(PAGE), info="colour")[0] == 'The Page\nnothing about "colour"'


@pytest.mark.parametrize(
    ("status", "failure"),
    [
        *[(status, Failure.TOOL_ERROR) for status in (400, 403, 404, 410)],
        *[(status, Failure.UNREACHABLE) for status in (429, 500, 503)],
    ],
)
def test_scrape_status(status, failure):
    error, _ = scrape(html("x", status))
    assert (error.failure, str(error)) == (failure, f"HTTP {status} for http://a.test/p")


@pytest.mark.parametrize(
    "url",
    [
        "ftp://a.test/",
        "file:///etc/passwd",
        "a.test/p",
        "javascript:alert(1)",
        "http://",
        "http:///x",
        "//a.test",
    ],
)
def test_scrape_refuses_other_schemes(url):
    error, seen = scrape(html(PAGE), url)
    assert error.failure is Failure.TOOL_ERROR and "not an http or https address" in str(error)
    assert seen == []


def test_scrape_refuses_benchmark_data_also_behind_a_redirect():
    error, seen = scrape(html(PAGE), "https://huggingface.co/datasets/a/b")
    assert error.failure is Failure.TOOL_ERROR and "off limits" in str(error) and seen == []
    error, seen = scrape(html("", 302, Location="https://huggingface.co/datasets/a/b"))
    assert "off limits" in str(error) and len(seen) == 1


def test_scrape_follows_redirects():
    def answer(request):
        if request.url.path == "/p":
            return httpx.Response(301, headers={"Location": "http://b.test/new/"})
        return html('<title>T</title><a href="rel">north</a>')(request)

    text, seen = scrape(answer, custom_headers={"Cookie": "a=b"})
    assert text == "T\n[north](http://b.test/new/rel)"
    assert ["Cookie" in r.headers for r in seen] == [True, False]  # for the first host alone


def test_a_page_that_takes_too_long_is_the_pages_fault():
    """Its time ends before the call's: the executor would take a deadline for infrastructure."""

    async def main():
        async def hang(request):
            await asyncio.sleep(30)

        settings = ToolsConfig(deadline_s=0.3)
        client = WebClient(transport=httpx.MockTransport(hang))
        async with ToolExecutor([ScrapePage(client, settings)], settings, whole) as executor:
            arguments = {"url": "http://a.test/", "description": "x"}
            return await executor.execute(ToolCall("web", "scrape_and_extract_info", arguments), "e:0.0")

    result = asyncio.run(main())
    assert (result.failure, result.text) == (Failure.UNREACHABLE, "no answer from http://a.test/ in 0.27 s")


def test_scrape_refuses_endless_addresses():
    error, seen = scrape(html(PAGE), "http://a.test/" + "huggingface.co/" * 5_000)
    assert error.failure is Failure.TOOL_ERROR and "longer than" in str(error) and seen == []


@pytest.mark.parametrize("location", ["/p", "file:///etc/passwd", "ftp://a.test/"])
def test_scrape_bad_redirects(location):
    error, seen = scrape(html("", 302, Location=location))
    assert error.failure is Failure.TOOL_ERROR
    assert len(seen) <= 6


@pytest.mark.parametrize(
    "headers", [{"Host": "b.test"}, {"a b": "c"}, {"X-A": "b\r\nX-C: d"}, {"X-Request-Id": "z"}, {"X": "é"}]
)
def test_scrape_headers_that_are_not_the_models(headers):
    error, seen = scrape(html(PAGE), custom_headers=headers)
    assert error.failure is Failure.TOOL_ERROR and "custom_headers" in str(error) and seen == []


def test_scrape_plain_text_and_unreadable_kinds():
    def answer(kind):
        content, headers = b"a: 1\nnorth: 2\n", {"Content-Type": kind}
        return lambda request: httpx.Response(200, content=content, headers=headers)

    assert scrape(answer("text/plain"))[0] == "http://a.test/p\nnorth: 2"
    assert scrape(answer("application/json; charset=utf-8"))[0] == "http://a.test/p\nnorth: 2"
    error, _ = scrape(answer("application/pdf"))
    assert error.failure is Failure.TOOL_ERROR and "cannot read application/pdf" in str(error)


@pytest.mark.parametrize(
    ("kind", "head"),
    [
        ("text/html; charset=iso-8859-1", ""),
        ("text/html", '<meta charset="iso-8859-1">'),
    ],
)
def test_scrape_charsets(kind, head):
    body = f"<html><head>{head}<title>T</title></head><p>north café</p>".encode("latin-1")
    text, _ = scrape(lambda r: httpx.Response(200, content=body, headers={"Content-Type": kind}))
    assert text == "T\nnorth café"


def test_scrape_reads_only_so_much():
    text, _ = scrape(html("<title>T</title>" + "<p>filler</p>" * 40_000 + "<p>north</p>"))
    assert text == 'T\nnothing about "north"'


# --- against the embedded web ---

NOISELESS = WorldConfig(
    sources=("airports",), max_entities=300, wrong_first_hit=0, dead_link=0, failing_call=0, slow_call=0
)


@pytest.fixture(scope="module")
def server():
    with WorldServer(NOISELESS, 0) as server:
        yield server


def whole(text, tokens):
    return text, False


def test_the_embedded_web_through_the_executor(server):
    entity = next(e for e in load_world(NOISELESS, 0).entities.values() if "north" in e.links)
    settings = ToolsConfig(
        names=("google_search", "scrape_and_extract_info"), search_results=1, snippet_chars=0
    )
    url = f"http://airports.test/{entity.id}"

    tools = build_tools(settings, server.proxy_url, "")

    async def main():
        async with ToolExecutor(tools, settings, whole) as executor:

            async def use(spec, **arguments):
                return await executor.execute(ToolCall(spec.server, spec.name, arguments), "e:0.0")

            search, scrape = (tool.spec for tool in tools)
            return [
                await use(search, q=entity.title),
                await use(scrape, url=url, info_to_extract="north"),
                await use(scrape, url=url + "x", info_to_extract="north"),
                await use(scrape, url="http://example.com/", info_to_extract="north"),
                await use(scrape, url="https://example.com/", info_to_extract="north"),
            ]

    found, page, missing, elsewhere, tunnel = asyncio.run(main())
    assert found.text == f"1. {entity.title}\n{url}"
    north = entity.links["north"]
    assert page.text.splitlines()[:2] == [entity.title, f"north: [{north}](http://airports.test/{north})"]
    assert (missing.failure, missing.text) == (Failure.TOOL_ERROR, f"HTTP 404 for {url}x")
    assert elsewhere.failure is tunnel.failure is Failure.TOOL_ERROR


def test_build_shares_connections_and_keeps_the_order(server):
    names = ("scrape_and_extract_info", "google_search")
    tools = build_tools(ToolsConfig(names=names), server.proxy_url, "k")
    assert tuple(t.spec.name for t in tools) == names
    assert tools[0]._client is tools[1]._backend._client
    own = build_tools(ToolsConfig(names=names, search_url="https://serper.test/s"), server.proxy_url, "k")
    assert own[0]._client is not own[1]._backend._client


def test_build_errors():
    with pytest.raises(ConfigError, match=r"tools\.search_url is empty and the embedded web is off"):
        build_tools(ToolsConfig(names=("google_search",)), None, "k")
    settings = ToolsConfig(names=("google_search",), search_url="https://s.test/", search_key_env="MY_KEY")
    with pytest.raises(ConfigError, match="set the environment variable MY_KEY"):
        build_tools(settings, None, "")


def test_the_reader_is_a_setting(monkeypatch):
    story = "<p>North of here lies a town of some size, with a station and an old bridge.</p>" * 3
    text = f"<title>T</title><body><div class='menu'>north pole</div><article>{story}</article></body>"
    found = {
        reader: scrape(html(text), settings=ToolsConfig(reader=reader))[0]
        for reader in ("rules", "trafilatura")
    }
    assert "north pole" in found["rules"] and "north pole" not in found["trafilatura"]
    assert "North of here" in found["trafilatura"]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"not installed: pip install 'mirothinker-jax\[tools\]'"):
        scrape(html(text), settings=ToolsConfig(reader="trafilatura"))
