"""Calls as a person follows them."""

import asyncio

import pytest
from scripted import Tools

from mirothinker_jax.agent.progress import WatchedExecutor
from mirothinker_jax.tools import browse, sandbox, search
from mirothinker_jax.tools.spec import Failure, ToolCall, ToolResult

SPECS = [search.SPEC, browse.SPEC, sandbox.SPECS["run_python_code"]]


def watch(answer, *calls):
    """(lines, sources, results), by a clock that goes on a second whenever it is read."""
    lines, seconds = [], iter(range(100))
    tools = Tools(lambda call: answer)
    watched = WatchedExecutor(tools, SPECS, lines.append, lambda: float(next(seconds)))

    async def main():
        return [await watched.execute(call, "e:1.1") for call in calls]

    results = asyncio.run(main())
    assert [request for _, request in tools.calls] == ["e:1.1"] * len(calls)
    return lines, watched.sources, results


def call(tool, **arguments):
    return ToolCall("", tool, arguments)


def test_a_line_before_and_one_after_each_call():
    asked = call("scrape_and_extract_info", info_to_extract="height", url="http://a.test/x")
    lines, sources, results = watch("Mount\n\n  8,849 m", call("google_search", q="a  b", gl="us"), asked)
    assert lines == [
        "  1 google_search a b",
        "  1 google_search 1.0 s: Mount 8,849 m",
        "  2 scrape_and_extract_info http://a.test/x",
        "  2 scrape_and_extract_info 1.0 s: Mount 8,849 m",
    ]
    assert sources == ["http://a.test/x"] and results == [ToolResult("Mount\n\n  8,849 m")] * 2


def test_a_page_counts_once_and_only_when_it_was_read():
    asked = call("scrape_and_extract_info", url="http://a.test/x", info_to_extract="x")
    lines, sources, _ = watch(ToolResult("404", Failure.TOOL_ERROR), asked)
    assert lines[1].endswith("1.0 s: failed (tool_error): 404") and sources == []
    assert watch("x", asked, asked)[1] == ["http://a.test/x"]
    assert watch("x", call("google_search", q="x", url="http://a.test/x"))[1] == []


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        (call("python", code="print(1)\nprint(2)"), "run_python_code print(1) print(2)"),
        (call("no_such", b=1, a="x"), "no_such x"),
        (call("no_such", a=[1]), "no_such"),
        (ToolCall("", "no_such", None), "no_such"),  # pyright: ignore
        (call("\x1b[2Jx", q="\x1b]0;t\x07" + "y" * 100), f"[2Jx ]0;t{'y' * 65}…"),
    ],
)
def test_what_a_call_is_about(asked, line):
    lines, _, _ = watch("\x1b[31mred\x00" + " z" * 100, asked)
    assert lines[0] == f"  1 {line}"
    assert lines[1].endswith("…") and lines[1].isprintable() and len(lines[1]) < 130
    assert watch("", asked)[0][1].endswith("1.0 s: nothing")


def test_a_call_that_is_stopped():
    def stopped(call):
        raise asyncio.CancelledError

    lines = []
    watched = WatchedExecutor(Tools(stopped), SPECS, lines.append)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(watched.execute(call("google_search", q="x"), "e:1.1"))
    assert lines[1].startswith("  1 google_search stopped after 0.")
