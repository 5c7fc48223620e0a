"""Our tools served by MCP: in memory, over HTTP on loopback and as a process, to our client and another."""

import asyncio
import contextlib
import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from mcp import Client

from mirothinker_jax.config import ConfigError, ToolsConfig
from mirothinker_jax.tools.build import build_tools
from mirothinker_jax.tools.executor import ToolExecutor
from mirothinker_jax.tools.mcp_client import McpServer, McpTool
from mirothinker_jax.tools.mcp_entry import parse_entry
from mirothinker_jax.tools.mcp_listing import tool_specs
from mirothinker_jax.tools.mcp_server import cut, listen, main, make_server
from mirothinker_jax.tools.mcp_sessions import Sessions
from mirothinker_jax.tools.spec import Failure, ToolCall, ToolError, ToolSpec

PARAMETERS = {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"]}
ROOT = Path(__file__).parents[2]


class Asked:
    """Answers with the episode that it was called for; fails where it is asked to."""

    spec = ToolSpec("ours", "ask", "Asks.", PARAMETERS)

    def __init__(self):
        self.begun, self.ended = [], []

    async def begin(self, episode, files):
        self.begun.append(episode)

    async def end(self, episode):
        self.ended.append(episode)

    async def run(self, arguments, request_id):
        if arguments["q"] == "fail":
            raise ToolError(Failure.TOOL_ERROR, "HTTP 404 for http://a.test")
        if arguments["q"] == "crash":
            raise KeyError("lost")
        return request_id if arguments["q"] == "who" else "é" * 100


@contextlib.asynccontextmanager
async def sessions(tool):
    async with ToolExecutor([tool], ToolsConfig(output_tokens=20), cut) as executor:
        found = Sessions(executor)
        yield found
        await found.aclose()


@contextlib.asynccontextmanager
async def over_http(tool):
    """(the address, the sessions there)"""
    async with sessions(tool) as found, listen([tool], found, 0) as (url, serve):
        task = asyncio.create_task(serve())
        try:
            yield url, found
        finally:
            task.cancel()
            await asyncio.wait({task})


def test_a_client_sees_the_tools_and_reads_why_a_call_failed():
    async def run():
        tool = Asked()
        async with sessions(tool) as found, Client(make_server([tool], found)) as client:
            listed = (await client.list_tools()).tools
            asked = [("ask", {"q": q}) for q in ("long", "fail", "crash")] + [
                ("ask", {}),
                ("tell", {"q": "a"}),
            ]
            return listed, [await client.call_tool(name, given) for name, given in asked]

    listed, found = asyncio.run(run())
    assert [(tool.name, tool.description, tool.input_schema) for tool in listed] == [
        ("ask", "Asks.", PARAMETERS)
    ]
    assert [(result.is_error, result.content[0].model_dump()["text"]) for result in found] == [
        (False, "é" * 80 + "\n(cut)"),
        (True, "HTTP 404 for http://a.test"),
        (True, "KeyError: 'lost'"),
        (True, "'q' is a required property"),
        (True, "unknown tool tell; known tools: ask"),
    ]


def test_over_http_each_connection_is_an_episode_and_a_lost_one_is_opened_again():
    asked = Asked()

    async def run():
        async with over_http(asked) as (url, found):
            servers = [McpServer(parse_entry(url)) for _ in range(2)]
            specs = tool_specs(parse_entry(url), await servers[0].listing())
            one, other = (McpTool(specs[0], server) for server in servers)
            who = [await tool.run({"q": "who"}, "e:1.1") for tool in (one, one, other)]
            async with httpx.AsyncClient() as client:
                ended = await client.delete(url, headers={"Mcp-Session-Id": next(iter(found._sessions))})
                before = list(asked.ended)
                page = await client.post(url, headers={"Origin": "https://evil.test"}, json={})
            who.append(await one.run({"q": "who"}, "e:1.2"))
            failed = await asyncio.gather(one.run({"q": "fail"}, "e:1.3"), return_exceptions=True)
            for server in servers:
                await server.aclose()
            return specs, who, before, ended.status_code, page.status_code, failed[0]

    specs, who, before, ended, page, failed = asyncio.run(run())
    assert (specs[0].server, specs[0].name, specs[0].repeatable) == ("mirothinker", "ask", True)
    first, again, other, reopened = (text.partition(":")[0] for text in who)
    assert first == again and len({first, other, reopened}) == 3
    assert before == [first]  # the sandbox of a connection goes with it
    assert asked.begun == [first, other, reopened] and sorted(asked.ended) == sorted(asked.begun)
    assert len(set(who)) == 4  # no two calls share an id
    assert ended == 200 and page in (403, 421)  # what a page in a browser sends is refused
    assert isinstance(failed, ToolError) and str(failed) == "HTTP 404 for http://a.test"


def test_a_process_serves_a_corpus_to_our_client_and_ends_with_it(tmp_path):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(
        json.dumps({"url": "http://a.test/1", "title": "Walrus", "text": "The walrus has tusks."})
    )
    command = (
        f"PYTHONPATH={ROOT} {sys.executable} -m mirothinker_jax.tools.mcp_server --config.tools.corpus={corpus} "
        "--config.tools.names=google_search"
    )
    settings = ToolsConfig(names=(), mcp=(command,), output_tokens=1000)

    async def run():
        async with ToolExecutor(build_tools(settings, None, ""), settings, cut) as executor:
            calls = [ToolCall("", "google_search", given) for given in ({"q": "walrus tusks"}, {"q": ""})]
            return [await executor.execute(call, "e:1.1") for call in calls]

    found, refused = asyncio.run(run())
    assert found.failure is None and "http://a.test/1" in found.text
    assert refused.failure is Failure.TOOL_ERROR and "'' should be non-empty" in refused.text
    running = subprocess.run(["pgrep", "-f", str(corpus)], capture_output=True, text=True, check=False)
    assert running.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--http", "eighty"],
            "argument --http: invalid int value: 'eighty'; see python -m mirothinker_jax.tools.mcp_server --help",
        ),
        (["--config", "toy/absent"], "toy/absent"),
        (["--config.tools.corpus=absent.jsonl"], "absent.jsonl"),
        (["--config.tools.names=()", "--config.tools.corpus=CORPUS"], "there is nothing to serve"),
        (["--http", "70000", "--config.tools.corpus=CORPUS"], "--http 70000: "),
    ],
)
def test_a_mistake_is_one_line(arguments, said, capsys, tmp_path):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"url": "http://a.test", "text": "a"}\n')
    arguments = [a.replace("CORPUS", str(corpus)) for a in arguments]
    try:
        code = main([*arguments])
    except SystemExit as stop:
        code = stop.code
    error = capsys.readouterr().err
    assert code == 2 and error.startswith("error: ") and said in error and error.count("\n") == 1


def test_help_teaches_and_two_tools_of_one_name_are_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    shown = capsys.readouterr().out
    assert stop.value.code == 0 and "--http PORT" in shown and '"mcpServers"' in shown
    tools = [Asked(), Asked()]
    with pytest.raises(ConfigError, match="two tools are called ask"):
        make_server(tools, Sessions(ToolExecutor(tools[:1], ToolsConfig(), cut)))
