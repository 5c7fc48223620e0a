"""Every failure is a value; limits hold; identical calls share one request."""

import asyncio
import itertools

import pytest

from mirothinker_jax.config import ToolsConfig
from mirothinker_jax.tools.executor import ToolExecutor
from mirothinker_jax.tools.spec import Failure, ToolCall, ToolError, ToolSpec

SCHEMA = {
    "type": "object",
    "properties": {"q": {"type": "string"}, "n": {"type": "integer", "minimum": 1}},
    "required": ["q"],
    "additionalProperties": False,
}


def truncate(text, tokens):
    words = text.split(" ")
    return (" ".join(words[:tokens]) + "…", True) if len(words) > tokens else (text, False)


class Scripted:
    """A tool that does what the test says, and records its calls."""

    def __init__(self, behave, repeatable=True, name="tool"):
        self.spec = ToolSpec("server", name, "a tool", SCHEMA, repeatable)
        self.behave = behave
        self.seen = []
        self.closed = 0

    async def run(self, arguments, request_id):
        self.seen.append((dict(arguments), request_id))
        return await self.behave(arguments)

    async def aclose(self):
        self.closed += 1


async def echo(arguments):
    return f"got {arguments['q']}"


def call(name="tool", **arguments):
    return ToolCall("server", name, arguments or {"q": "x"})


def run(tool, *calls, **settings):
    """Executes the calls one after the other; returns the results and the executor's counters."""

    async def main():
        remembering = {"cache": True} | settings
        async with ToolExecutor([tool], ToolsConfig(**remembering), truncate) as executor:
            return [await executor.execute(c, f"e:{i}.0") for i, c in enumerate(calls)], executor.counters

    return asyncio.run(main())


def raising(error):
    async def behave(arguments):
        raise error

    return behave


def test_a_result():
    tool = Scripted(echo)
    (result,), counters = run(tool, call(q="x", n=2))
    assert (result.text, result.failure, result.cached, result.truncated) == ("got x", None, False, False)
    assert result.seconds > 0
    assert tool.seen == [({"q": "x", "n": 2}, "e:0.0")]
    assert tool.closed == 1
    assert (counters.calls, counters.cache_hits) == (1, 0)


def test_null_arguments_are_dropped():
    tool = Scripted(echo)
    run(tool, call(q="x", n=None))
    assert tool.seen == [({"q": "x"}, "e:0.0")]


def test_slips_are_mended_before_anything_is_checked_or_remembered():
    tool = Scripted(echo)
    slips = [ToolCall("other", "tool", {"q": "x", "n": n}) for n in ("2", 2.0)]
    results, counters = run(tool, call(q="x", n=2), *slips)
    assert [r.text for r in results] == ["got x"] * 3
    assert tool.seen == [({"q": "x", "n": 2}, "e:0.0")] and counters.cache_hits == 2


def test_text_that_is_no_text_to_a_tokenizer_is_mended():
    """Half a surrogate pair, from a snippet that was cut in the middle of an emoji."""

    async def cut(arguments):
        return "smile \ud83d"

    (result,), _ = run(Scripted(cut), call())
    assert result.text == "smile ?"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (("server", "other"), "unknown tool server/other; known tools: server/tool"),
        (("tool", "server"), "unknown tool tool/server; known tools: server/tool"),
        (("", "other"), "unknown tool other; known tools: tool"),  # from a call format without servers
    ],
)
def test_unknown_tool(name, text):
    (result,), _ = run(Scripted(echo), ToolCall(*name, {"q": "x"}))
    assert result.failure is Failure.UNKNOWN_TOOL
    assert result.text == text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "'q' is a required property"),
        ({"q": None}, "'q' is a required property"),
        ({"q": 3}, "q: 3 is not of type 'string'"),
        ({"q": "x", "n": 0}, "n: 0 is less than the minimum of 1"),
        ({"q": "x", "n": "two"}, "n: 'two' is not of type 'integer'"),
        ({"q": "x", "n": "0"}, "n: 0 is less than the minimum of 1"),
        ({"q": "x", "z": 1}, "Additional properties are not allowed ('z' was unexpected)"),
        ({"q": object()}, "the arguments are not JSON: Object of type object is not JSON serializable"),
        (
            {"q": "x", 3: 4},
            "the arguments are not JSON: '<' not supported between instances of 'int' and 'str'",
        ),
        (["q"], "the arguments must be a JSON object"),
        ("q", "the arguments must be a JSON object"),
    ],
)
def test_invalid_arguments(arguments, message):
    tool = Scripted(echo)
    (result,), _ = run(tool, ToolCall("server", "tool", arguments))
    assert (result.failure, result.text) == (Failure.INVALID_ARGUMENTS, message)
    assert tool.seen == []


def test_messages_about_huge_arguments_are_short():
    (result,), _ = run(Scripted(echo), call(q="x", n="9" * 5000))
    assert result.failure is Failure.INVALID_ARGUMENTS
    assert len(result.text) <= 300


@pytest.mark.parametrize(
    "failure", [Failure.TOOL_ERROR, Failure.UNREACHABLE, Failure.NETWORK, Failure.DEADLINE]
)
def test_tool_errors(failure):
    (result,), counters = run(Scripted(raising(ToolError(failure, "no"))), call())
    assert (result.text, result.failure) == ("no", failure)
    assert counters.failures == {failure: 1}


@pytest.mark.parametrize("error", [RuntimeError("boom"), TimeoutError("boom"), KeyError("boom")])
def test_a_tool_that_breaks(error, caplog):
    (result,), _ = run(Scripted(raising(error)), call())
    assert result.failure is Failure.TOOL_ERROR
    assert type(error).__name__ in result.text and "boom" in result.text
    assert "Traceback" not in result.text


def test_deadline_cancels_the_tool():
    ended = []

    async def forever(arguments):
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    (result,), _ = run(Scripted(forever), call(), deadline_s=0.05)
    assert (result.failure, result.text) == (Failure.DEADLINE, "no result within 0.05 s")
    assert 0.05 <= result.seconds < 5
    assert ended == ["cancelled"]


@pytest.mark.parametrize("fails", [False, True])
def test_output_is_capped_in_tokens(fails):
    async def long(arguments):
        text = "word " * 100
        if fails:
            raise ToolError(Failure.TOOL_ERROR, text)
        return text

    (result,), counters = run(Scripted(long), call(), output_tokens=8)
    assert result.truncated and result.text == " ".join(["word"] * 8) + "…"
    assert counters.truncated == 1


@pytest.mark.parametrize("cache", [False, True])
def test_concurrency_is_bounded(cache):
    running, most = 0, 0

    async def busy(arguments):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.005)
        running -= 1
        return "done"

    async def main():
        settings = ToolsConfig(concurrency=3, cache=cache)
        async with ToolExecutor([Scripted(busy)], settings, truncate) as executor:
            results = await asyncio.gather(*[executor.execute(call(q=str(i)), "e:0.0") for i in range(20)])
        assert all(r.failure is None for r in results)

    asyncio.run(main())
    assert most == 3


def test_waiting_for_a_slot_does_not_use_up_the_deadline():
    async def slow(arguments):
        await asyncio.sleep(0.1)
        return "done"

    async def main():
        settings = ToolsConfig(concurrency=1, deadline_s=0.25)
        async with ToolExecutor([Scripted(slow)], settings, truncate) as executor:
            return await asyncio.gather(*[executor.execute(call(q=str(i)), "e:0.0") for i in range(5)])

    assert [r.failure for r in asyncio.run(main())] == [None] * 5


def test_repeated_calls_are_answered_from_memory():
    tool = Scripted(echo)
    results, counters = run(tool, call(q="x", n=1), call(n=1, q="x"), call(q="x", n=2), call(q="x", n=None))
    assert [r.cached for r in results] == [False, True, False, False]
    assert results[1].text == results[0].text
    assert results[1].seconds == 0.0
    assert len(tool.seen) == 3
    assert (counters.calls, counters.cache_hits) == (4, 1)


@pytest.mark.parametrize(("repeatable", "cache"), [(False, True), (True, False)])
def test_nothing_is_remembered_where_that_is_not_asked_for(repeatable, cache):
    tool = Scripted(echo, repeatable)
    results, _ = run(tool, call(), call(), cache=cache)
    assert len(tool.seen) == 2 and not any(r.cached for r in results)


def test_failures_are_not_remembered():
    outcomes = iter([ToolError(Failure.NETWORK, "HTTP 503"), None])

    async def once(arguments):
        error = next(outcomes)
        if error:
            raise error
        return "fine"

    results, _ = run(Scripted(once), call(), call(), call())
    assert [(r.text, r.cached) for r in results] == [("HTTP 503", False), ("fine", False), ("fine", True)]


def test_the_memory_is_bounded(monkeypatch):
    monkeypatch.setattr("mirothinker_jax.tools.memory._REMEMBERED", 2)
    tool = Scripted(echo)
    results, _ = run(tool, *[call(q=q) for q in "abacab"])
    # "b" is forgotten when "c" comes, as "a" was used after it; then "b" is asked again.
    assert [r.cached for r in results] == [False, False, True, False, True, False]


def test_identical_calls_under_way_share_one_request():
    gate = asyncio.Event()

    async def wait(arguments):
        await gate.wait()
        return "done"

    async def main():
        tool = Scripted(wait)
        async with ToolExecutor([tool], ToolsConfig(cache=True), truncate) as executor:
            waiting = [asyncio.create_task(executor.execute(call(), f"e:{i}.0")) for i in range(5)]
            other = asyncio.create_task(executor.execute(call(q="other"), "e:9.0"))
            await asyncio.sleep(0.01)
            assert len(tool.seen) == 2
            waiting[0].cancel()  # the first caller going away must not harm the others
            await asyncio.sleep(0.01)
            gate.set()
            results = await asyncio.gather(*waiting[1:], other)
            assert [r.text for r in results] == ["done"] * 5
            assert [r.cached for r in results] == [True] * 4 + [False]
            assert len(tool.seen) == 2
            with pytest.raises(asyncio.CancelledError):
                await waiting[0]

    asyncio.run(main())


def test_a_call_that_nobody_waits_for_is_cancelled():
    ended = asyncio.Event()

    async def forever(arguments):
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    async def main():
        async with ToolExecutor([Scripted(forever)], ToolsConfig(cache=True), truncate) as executor:
            tasks = [asyncio.create_task(executor.execute(call(), "e:0.0")) for _ in range(2)]
            await asyncio.sleep(0.01)
            for task in tasks:
                task.cancel()
            async with asyncio.timeout(5):
                await ended.wait()
            assert all(t.cancelled() for t in tasks)

    asyncio.run(main())


def test_one_event_loop_after_another():
    count = itertools.count()

    async def number(arguments):
        await asyncio.sleep(0)
        return str(next(count))

    executor = ToolExecutor([Scripted(number)], ToolsConfig(concurrency=1, cache=False), truncate)

    async def main():
        async with executor:
            return await asyncio.gather(*[executor.execute(call(), "e:0.0") for _ in range(3)])

    texts = [r.text for _ in range(2) for r in asyncio.run(main())]
    assert texts == ["0", "1", "2", "3", "4", "5"]


def test_figures():
    _, counters = run(Scripted(echo), call(), call(), call(name="other"), call(q=3))
    figures = counters.figures()
    assert figures.pop("tools/seconds") > 0 and figures.pop("tools/waiting_seconds") >= 0
    assert [figures.pop(f"tools/tool_p{share}_s") < 0.1 for share in (50, 90, 99)] == [True] * 3
    assert figures == {
        "tools/calls": 4.0,
        "tools/cache_hits": 1.0,
        "tools/truncated": 0.0,
        "tools/retries": 0.0,
        "tools/refused": 0.0,
        "tools/failures_unknown_tool": 1.0,
        "tools/failures_invalid_arguments": 1.0,
        "tools/failures_tool_error": 0.0,
        "tools/failures_no_results": 0.0,
        "tools/failures_unreachable": 0.0,
        "tools/failures_deadline": 0.0,
        "tools/failures_network": 0.0,
    }


def test_two_tools_of_one_name():
    with pytest.raises(ValueError, match="two tools share a name"):
        ToolExecutor([Scripted(echo), Scripted(echo)], ToolsConfig(), truncate)


def test_tools_that_keep_something_hear_of_episodes(caplog):
    """Of an episode that could not begin, too; and what goes wrong at its end ends nothing else."""

    class Keeping(Scripted):
        async def begin(self, episode, files):
            self.seen.append(("begin", episode, files))
            if episode == "full":
                raise RuntimeError("no sandbox is left")

        async def end(self, episode):
            self.seen.append(("end", episode))
            raise OSError("gone")

    first, second = Keeping(echo, name="first"), Keeping(echo, name="second")

    async def main():
        async with ToolExecutor([first, Scripted(echo), second], ToolsConfig(), truncate) as executor:
            await executor.begin("e", ("a.pdf",))
            await executor.end("e")
            with pytest.raises(
                ToolError, match="first cannot begin an episode: RuntimeError: no sandbox"
            ) as error:
                await executor.begin("full", ())
            assert error.value.failure is Failure.NETWORK
            await executor.end("full")

    asyncio.run(main())
    whole = [("begin", "e", ("a.pdf",)), ("end", "e")]
    assert first.seen == [*whole, ("begin", "full", ()), ("end", "full")]
    assert second.seen == [*whole, ("end", "full")]
    assert caplog.text.count("did not end episode") == 4
