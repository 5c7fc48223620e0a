"""A reader service and an extracting model in place of our own fetching and rules, against scripted answers."""

import asyncio
import json
import logging

import httpx
import pytest

from mirothinker_jax.config import ConfigError, ToolsConfig
from mirothinker_jax.tools.browse import ScrapePage
from mirothinker_jax.tools.build import build_tools
from mirothinker_jax.tools.client import WebClient
from mirothinker_jax.tools.extractor import Extractor
from mirothinker_jax.tools.jina import ReaderService
from mirothinker_jax.tools.spec import Failure, ToolError

READER, MODEL = "http://reader.test:3000/", "http://model.test/v1"
JINA = ToolsConfig(reader="jina", reader_url=READER, scrape_lines=1)
EXTRACTING = ToolsConfig(extractor_url=MODEL, extractor_model="m", scrape_lines=1)
PAGE = "Title: Of towers\n\nURL Source: http://a.test/p\n\nMarkdown Content:\n## Paris\nIt is north: 330 m\n"


def scrape(answer, settings, url="http://a.test/p", calls=1, **arguments):
    """The last result of so many calls, and all requests; `answer(request)` is the whole network."""
    seen = []

    async def handler(request):
        seen.append(request)
        found = answer(request)
        return await found if asyncio.iscoroutine(found) else found

    client = WebClient(transport=httpx.MockTransport(handler))
    service = ReaderService(client, settings.reader_url, "key") if settings.reader == "jina" else None
    extractor = Extractor(client, settings, "key") if settings.extractor_url else None
    tool = ScrapePage(client, settings, service, extractor)

    async def main():
        try:
            asked = {"url": url, "info_to_extract": "north", **arguments}
            return [await tool.run(asked, "e:0.0") for _ in range(calls)][-1]
        except ToolError as error:
            return error
        finally:
            await tool.aclose()

    return asyncio.run(main()), seen


def text(said, status=200):
    return lambda request: httpx.Response(status, text=said)


def test_a_page_by_way_of_a_reader_service():
    found, (request,) = scrape(text(PAGE), JINA, "HTTP://a.test:80/p?x=1&y=%20#z")
    assert found == "Of towers\nIt is north: 330 m"
    assert (request.method, str(request.url)) == ("GET", f"{READER}http://a.test/p?x=1&y=%20")
    assert (request.headers["Authorization"], request.headers["X-Request-Id"]) == ("Bearer key", "e:0.0")
    # Some services answer bare Markdown.
    assert scrape(text("# Towers\nnorth: 1"), JINA)[0] == "Towers\nnorth: 1"


@pytest.mark.parametrize(
    ("answer", "failure", "message"),
    [
        *[(text("", status), Failure.NETWORK, f"HTTP {status}") for status in (401, 402, 404, 429, 500, 503)],
        (text("no such\nhost", 422), Failure.TOOL_ERROR, "cannot read http://a.test/p: no such host"),
        (text("", 451), Failure.TOOL_ERROR, "cannot read http://a.test/p: HTTP 451"),
        (
            text("Title: \n\nWarning: Target URL returned error 404: Not Found\n\nMarkdown Content:\nx"),
            Failure.TOOL_ERROR,
            "HTTP 404 for http://a.test/p",
        ),
        (
            text("Title: x\n\nWarning: Target URL returned error 503: \n\nMarkdown Content:\nx"),
            Failure.UNREACHABLE,
            "HTTP 503 for http://a.test/p",
        ),
        (
            text("Title: D\nURL Source: https://huggingface.co/datasets/a/b\nMarkdown Content:\nx"),
            Failure.TOOL_ERROR,
            "off limits",
        ),
    ],
)
def test_whose_fault_it_is(answer, failure, message):
    error, _ = scrape(answer, JINA)
    assert error.failure is failure and message in str(error)


@pytest.mark.parametrize(
    ("url", "more", "message"),
    [
        ("http://127.0.0.1/", {}, "not on the public web"),
        ("http://metadata.google.internal/", {}, "not on the public web"),
        ("https://huggingface.co/datasets/a/b", {}, "off limits"),
        ("http://a.test/", {"custom_headers": {"Cookie": "a=b"}}, "custom_headers cannot be set here"),
    ],
)
def test_what_a_reader_service_is_never_asked_for(url, more, message):
    error, seen = scrape(text(PAGE), JINA, url, **more)
    assert error.failure is Failure.TOOL_ERROR and message in str(error) and seen == []


def model(*answers):
    """The page from its host; from the model, one answer after another: (status, content or body)."""
    left = list(answers)

    def answer(request):
        if request.url.host != "model.test":
            return httpx.Response(200, html="<title>T {page}</title><p>north: {information}</p><p>rest</p>")
        status, said = left.pop(0) if len(left) > 1 else left[0]
        body = {"choices": [{"message": {"content": said}}]} if isinstance(said, str) else said
        return httpx.Response(status, json=body)

    return answer


def test_an_extracting_model():
    found, (_, request) = scrape(model((200, "<think>north?</think>\n It is 330 m. ")), EXTRACTING)
    assert found == "T {page}\nIt is 330 m."
    assert str(request.url) == f"{MODEL}/chat/completions"
    assert request.headers["Authorization"] == "Bearer key"
    body = json.loads(request.content)
    assert body["model"] == "m" and [m["role"] for m in body["messages"]] == ["user"]
    prompt = body["messages"][0]["content"]
    # What a page says is never a place of the template.
    assert "\nnorth\n" in prompt and prompt.endswith("Title: T {page}\n\nnorth: {information}\nrest\n")


def test_a_page_too_long_for_the_model_is_cut(tmp_path):
    file = tmp_path / "prompt.txt"
    file.write_text("{information}{page}", "utf-8")
    settings = ToolsConfig(extractor_url=MODEL, extractor_model="m", extractor_prompt_file=str(file))

    def answer(request):
        if request.url.host != "model.test":
            return httpx.Response(200, text="north " * 100_000)
        size = len(json.loads(request.content)["messages"][0]["content"])
        return model((200, str(size)))(request) if size < 30_000 else httpx.Response(400)

    found, seen = scrape(answer, settings)
    assert found.splitlines()[1] == str(len("north") + 25_600) and len(seen) == 4


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (500, "x"),
        (401, "x"),
        (200, ""),
        (200, "<think>only</think>"),
        (200, {"choices": []}),
        (200, [1]),
        (400, "x"),
    ],
)
def test_rules_take_over_where_the_model_fails(caplog, status, said):
    with caplog.at_level(logging.WARNING):
        found, _ = scrape(model((status, said)), EXTRACTING, calls=2)
    assert found == "T {page}\nnorth: {information}"
    assert sum("the extractor failed" in r.message for r in caplog.records) == 1


def test_rules_take_over_where_the_model_is_late():
    async def hang(request):
        await asyncio.sleep(30)

    def answer(request):
        return hang(request) if request.url.host == "model.test" else model((200, "x"))(request)

    settings = ToolsConfig(extractor_url=MODEL, extractor_model="m", scrape_lines=1, deadline_s=0.5)
    assert scrape(answer, settings)[0] == "T {page}\nnorth: {information}"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reader": "jina", "reader_url": ""}, r"tools\.reader_url is empty"),
        ({"reader_url": "r.jina.ai"}, r"tools\.reader_url is 'r\.jina\.ai', which is no address"),
        ({"extractor_url": MODEL}, "give both or neither"),
        ({"extractor_model": "m"}, "give both or neither"),
        ({"file_bytes": 0}, r"tools\.file_bytes is 0"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ConfigError, match=message):
        ToolsConfig(**settings)


def test_building_with_services(tmp_path, monkeypatch, caplog):
    names = ("scrape_and_extract_info",)
    monkeypatch.setenv("JINA_API_KEY", "j")
    settings = ToolsConfig(names=names, reader="jina", extractor_url=MODEL, extractor_model="m")
    (tool,) = build_tools(settings, None, "")
    assert tool._service._headers["Authorization"] == "Bearer j" and tool._extractor._headers == {}
    with pytest.raises(ConfigError, match="cannot reach the embedded web"):
        build_tools(ToolsConfig(names=names, reader="jina"), "http://127.0.0.1:1", "")
    file = tmp_path / "prompt.txt"
    settings = ToolsConfig(
        names=names, extractor_url=MODEL, extractor_model="m", extractor_prompt_file=str(file)
    )
    with pytest.raises(ConfigError, match=r"prompt\.txt cannot be read"):
        build_tools(settings, None, "")
    file.write_text("{page}", "utf-8")
    with pytest.raises(ConfigError, match=r"prompt\.txt lacks \{information\}"):
        build_tools(settings, None, "")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    build_tools(ToolsConfig(names=names), None, "")
    assert (
        "PDF, DOCX, XLSX, PPTX files cannot be read here: pip install 'mirothinker-jax[documents]'"
        in caplog.text
    )


@pytest.mark.parametrize("settings", [{}, {"reader": "jina", "reader_url": READER, "search": "serper"}])
def test_an_address_that_the_run_refuses_is_not_asked_for(settings):
    config = ToolsConfig(names=("scrape_and_extract_info",), refuse=("some-bench",), **settings)
    (tool,) = build_tools(config, None, "key")
    arguments = {"url": "https://a.test/Some-Bench.csv", "info_to_extract": "x"}
    with pytest.raises(ToolError) as raised:
        asyncio.run(tool.run(arguments, "e:0.0"))
    assert raised.value.failure is Failure.TOOL_ERROR and "off limits (benchmark data)" in str(raised.value)
