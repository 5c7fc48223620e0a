"""Limits, retries, circuit breaker and deadlines, by a clock that jumps."""

import asyncio
import collections
import random

import pytest
from virtual_time import run

from mirothinker_jax.config import ToolsConfig
from mirothinker_jax.config_tree import ConfigError
from mirothinker_jax.tools.executor import ToolExecutor
from mirothinker_jax.tools.spec import Failure, ToolCall, ToolError, ToolSpec

DOWN = ToolError(Failure.NETWORK, "HTTP 503")


class Timed:
    """A tool that does what `behave(q, n)` says in its n-th attempt at q, and keeps when each began."""

    def __init__(self, behave, name="tool", server="server", repeatable=True):
        self.spec = ToolSpec(server, name, "a tool", {"type": "object"}, repeatable)
        self._behave = behave
        self.began = []
        self._attempts = collections.Counter()

    async def run(self, arguments, request_id):
        q = arguments.get("q", "")
        self.began.append((round(now(), 6), q))
        self._attempts[q] += 1
        return await self._behave(q, self._attempts[q])


def now():
    return asyncio.get_running_loop().time()


def taking(seconds, then="done"):
    async def behave(q, n):
        await asyncio.sleep(seconds)
        if isinstance(then, BaseException):
            raise then
        return then

    return behave


def by_turns(*outcomes):
    """The n-th attempt ends so; the last outcome stays."""

    async def behave(q, n):
        await asyncio.sleep(0.1)
        outcome = outcomes[min(n, len(outcomes)) - 1]
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    return behave


def play(tools, *calls, **settings):
    """Makes calls (tool name, q, when) on one executor; returns results with their ends, and the counters."""

    async def main():
        async with ToolExecutor(tools, ToolsConfig(**settings), lambda t, n: (t, False)) as executor:
            servers = {tool.spec.name: tool.spec.server for tool in tools}

            async def one(name, q="", when=0.0):
                await asyncio.sleep(when)
                result = await executor.execute(ToolCall(servers[name], name, {"q": q}), f"e:{q}.0")
                return result.text, result.failure, round(now(), 3)

            return await asyncio.gather(*[one(*call) for call in calls]), executor.counters

    return run(main())


def test_slots_of_one_tool_leave_the_others_theirs():
    slow, fast = Timed(taking(10), "slow"), Timed(taking(1), "fast")
    calls = [("slow", str(i)) for i in range(4)] + [("fast", str(i)) for i in range(4)]
    results, counters = play([slow, fast], *calls, concurrency=3, tool_concurrency=("slow:2",))
    assert [end for *_, end in results] == [10, 10, 20, 20, 1, 2, 3, 4]
    assert counters.waiting_seconds == pytest.approx(2 * 10 + 0 + 1 + 2 + 3)


def test_a_rate_spaces_calls_and_holds_no_slot():
    paced, other = Timed(taking(1), "paced"), Timed(taking(1), "other")
    calls = [("paced", str(i)) for i in range(4)] + [("other", str(i)) for i in range(2)]
    play([paced, other], *calls, concurrency=2, tool_rates=("paced:0.1",))
    assert paced.began == [(0, "0"), (10, "1"), (20, "2"), (30, "3")]
    assert other.began == [(0, "0"), (1, "1")]


def test_a_call_cancelled_in_the_queue_costs_the_others_no_turn():
    paced = Timed(taking(1), "paced")

    async def main():
        settings = ToolsConfig(tool_rates=("paced:0.1",), tool_concurrency=("paced:9",))
        async with ToolExecutor([paced], settings, lambda t, n: (t, False)) as executor:
            tasks = [
                asyncio.create_task(executor.execute(ToolCall("server", "paced", {"q": q}), "e:0.0"))
                for q in "abc"
            ]
            await asyncio.sleep(5)
            tasks[1].cancel()
            await asyncio.wait(tasks)

    run(main())
    assert paced.began == [(0, "a"), (10, "c")]


@pytest.mark.parametrize("key", ["tool_concurrency", "tool_rates"])
def test_limits_of_no_tool(key):
    with pytest.raises(
        ConfigError, match=rf"tools.{key} limits 'x', which is no tool of this run; .* are tool$"
    ):
        ToolExecutor([Timed(taking(1))], ToolsConfig(**{key: ("x:1",)}), lambda t, n: (t, False))


@pytest.mark.parametrize(
    ("outcomes", "repeatable", "attempts", "failure"),
    [
        ((DOWN, DOWN, "done"), True, 3, None),
        ((DOWN,), True, 4, Failure.NETWORK),
        ((DOWN, "done"), False, 1, Failure.NETWORK),
        ((ToolError(Failure.DEADLINE, "late"), "done"), True, 2, None),
        ((ToolError(Failure.TOOL_ERROR, "404"), "done"), True, 1, Failure.TOOL_ERROR),
        ((ToolError(Failure.UNREACHABLE, "no host"), "done"), True, 1, Failure.UNREACHABLE),
        ((RuntimeError("bug"), "done"), True, 1, Failure.TOOL_ERROR),
    ],
)
def test_retries(outcomes, repeatable, attempts, failure):
    tool = Timed(by_turns(*outcomes), repeatable=repeatable)
    ((_, got, _),), counters = play([tool], ("tool",), retries=3)
    assert (len(tool.began), got) == (attempts, failure)
    assert (counters.retries, counters.calls) == (attempts - 1, 1)


def test_waits_before_retries_are_random_and_grow(monkeypatch):
    monkeypatch.setattr(random, "uniform", lambda low, high: high)  # the longest they can be
    tool = Timed(by_turns(DOWN))
    play([tool], ("tool",), retries=3)
    assert [when for when, _ in tool.began] == pytest.approx([0, 1.1, 3.2, 7.3])


def test_retries_end_with_the_deadline(monkeypatch):
    """The failure that was met is told, not the end of the time."""
    monkeypatch.setattr(random, "uniform", lambda low, high: high)
    tool = Timed(by_turns(DOWN))
    ((text, failure, end),), _ = play([tool], ("tool",), retries=100, deadline_s=5.0)
    assert (text, failure, end, len(tool.began)) == ("HTTP 503", Failure.NETWORK, 3.3, 3)


def test_a_retry_gets_what_is_left_of_the_deadline(monkeypatch):
    """Be it for its attempt or for its turn, which the others' calls may keep it from."""
    monkeypatch.setattr(random, "uniform", lambda low, high: high)

    async def behave(q, n):
        if q == "a" and n == 1:
            raise DOWN
        await asyncio.sleep(4)
        return "done"

    calls = [("tool", "a"), ("tool", "b", 0.5)]
    alone, _ = play([Timed(behave)], *calls[:1], retries=1, deadline_s=4.5)
    assert alone == [("no result within 4.5 s", Failure.DEADLINE, 4.5)]
    queued, _ = play([Timed(behave)], *calls, retries=1, deadline_s=4.4, concurrency=1)
    assert queued == [("no result within 4.4 s", Failure.DEADLINE, 4.4), ("done", None, 4.5)]


def test_a_circuit_opens_probes_and_closes():
    bad, sibling, other = (
        Timed(by_turns(DOWN), "bad"),
        Timed(by_turns(DOWN, "done"), "sibling"),
        Timed(by_turns("done"), "other", "elsewhere"),
    )
    results, counters = play(
        [bad, sibling, other],
        *(("bad", "0"), ("bad", "1", 1), ("bad", "2", 2), ("other", "3", 2)),
        # 10.95 s after the second failure is open; then one probe, which fails, and 10 s later one that does not.
        *(("sibling", "4", 11), ("sibling", "4", 11.15), ("bad", "5", 11.16), ("sibling", "6", 15)),
        *(("sibling", "4", 21.3), ("bad", "7", 21.31), ("sibling", "4", 22)),
        breaker_failures=2,
        breaker_open_s=10.0,
    )
    refused = (
        "circuit open: server failed {} times in a row and is tried again {}; the last failure: HTTP 503"
    )
    assert [text for text, *_ in results] == [
        *("HTTP 503", "HTTP 503", refused.format(2, "in 9.1 s"), "done"),
        *(refused.format(2, "in 0.1 s"), "HTTP 503", refused.format(2, "by another call now")),
        refused.format(3, "in 6.25 s"),
        *("done", refused.format(3, "by another call now"), "done"),
    ]
    assert counters.refused == 5 and counters.failures == {Failure.NETWORK: 8}
    assert [q for _, q in bad.began] == ["0", "1"]


@pytest.mark.parametrize(
    ("between", "opens"),
    [
        ("done", False),
        (ToolError(Failure.TOOL_ERROR, "404"), False),
        (ToolError(Failure.UNREACHABLE, "a host of the model's"), True),
    ],
)
def test_what_interrupts_a_row_of_failures(between, opens):
    tool = Timed(by_turns(DOWN, between, DOWN, "done"))
    results, _ = play([tool], *[("tool", "", float(i)) for i in range(4)], breaker_failures=2)
    assert results[-1][0].startswith("circuit open") == opens


def test_a_probe_that_says_nothing_lets_the_next_call_probe():
    outcomes = by_turns(DOWN, ToolError(Failure.UNREACHABLE, "no host"), "done")
    results, _ = play([Timed(outcomes)], *[("tool", "", 40.0 * i) for i in range(3)], breaker_failures=1)
    assert [text for text, *_ in results] == ["HTTP 503", "no host", "done"]


def test_an_open_circuit_empties_the_queue_and_ends_retries():
    tool = Timed(by_turns(DOWN))
    results, _ = play(
        [tool], *[("tool", str(i)) for i in range(50)], concurrency=2, retries=9, breaker_failures=4
    )
    assert 4 <= len(tool.began) <= 5 and max(end for *_, end in results) < 5
    assert {failure for _, failure, _ in results} == {Failure.NETWORK}


async def _deaf(q, n):
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            if n > 1:
                raise
            n += 1  # it has to be told twice


async def _leaves(q, n):
    raise SystemExit(3)


async def _cancels_itself(q, n):
    asyncio.current_task().cancel()
    await asyncio.sleep(1)


async def _awaits_something_cancelled(q, n):
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


class Mute(Exception):
    def __str__(self):
        raise ValueError("no words")


@pytest.mark.parametrize(
    ("behave", "text", "end"),
    [
        (taking(1e6), "no result within 30 s", 30),
        (_deaf, "no result within 30 s", 35),
        (_leaves, "SystemExit: 3", 0),
        (_cancels_itself, "the tool cancelled itself", 0),
        (_awaits_something_cancelled, "the tool cancelled itself", 0),
        (taking(1, BaseExceptionGroup("all", [KeyError("a"), SystemExit()])), "BaseExceptionGroup: all", 1),
        (taking(1, Mute()), "Mute", 1),
        (taking(1, None), "the tool gave NoneType, not text", 1),
        (taking(1, b"bytes"), "the tool gave bytes, not text", 1),
    ],
)
def test_tools_that_misbehave(behave, text, end):
    ((got, failure, when),), _ = play([Timed(behave)], ("tool",))
    assert (got[: len(text)], when) == (text, end)
    assert failure is (Failure.DEADLINE if "within" in text else Failure.TOOL_ERROR)


def test_hanging_crashing_flapping_and_lying_at_a_fifth_of_calls(caplog):
    """Every call has its one result, the flapping ones are mended, and `run` finds no task left behind."""
    kinds = [
        taking(1e6),
        _deaf,
        _leaves,
        taking(0.1, RuntimeError("bug")),
        by_turns(DOWN, "done"),
        taking(0.1, 7),
    ]

    async def behave(q, n):
        number = int(q)
        return await (kinds[number // 5 % 6](q, n) if number % 5 == 0 else taking(1, f"r{q}")("", n))

    tool = Timed(behave)
    results, counters = play([tool], *[("tool", str(i)) for i in range(600)], concurrency=64, retries=2)
    assert all((text, failure) == (f"r{i}", None) for i, (text, failure, _) in enumerate(results) if i % 5)
    bad = [failure for i, (_, failure, _) in enumerate(results) if i % 5 == 0]
    wanted = [Failure.DEADLINE] * 2 + [Failure.TOOL_ERROR] * 2 + [None, Failure.TOOL_ERROR]
    assert bad == wanted * 20
    assert (counters.calls, counters.retries) == (600, 20)
    assert counters.failures == {Failure.DEADLINE: 40, Failure.TOOL_ERROR: 60}
    assert len(tool.began) == 620
    # What a tool did wrong is in the log, with the call's name.
    assert sum("goes on 5 s after it was cancelled" in line for line in caplog.messages) == 20


@pytest.mark.parametrize("cache", [False, True])
def test_callers_that_go_away_leave_nothing_running(cache):
    """Be they cancelled in the queue, in a call, between two attempts or with a tool that does not hear it."""
    kinds = [taking(1e6), _deaf, by_turns(DOWN), taking(4)]
    tool = Timed(lambda q, n: kinds[int(q) % 4](q, n))

    async def main():
        settings = ToolsConfig(concurrency=20, retries=5, cache=cache)
        async with ToolExecutor([tool], settings, lambda t, n: (t, False)) as executor:
            calls = [ToolCall("server", "tool", {"q": str(i // 2)}) for i in range(100)]
            tasks = [asyncio.create_task(executor.execute(call, "e:0.0")) for call in calls]
            await asyncio.sleep(6)
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert {type(r) for r in results} > {asyncio.CancelledError}
            assert now() <= 11

    run(main())


def test_thousands_in_flight():
    tool = Timed(taking(10))
    results, _ = play([tool], *[("tool", str(i)) for i in range(2000)], concurrency=2000)
    assert {end for *_, end in results} == {10}


def test_percentiles_of_each_tool():
    async def behave(q, n):
        await asyncio.sleep(float(q))
        return "done"

    tools = [Timed(behave), Timed(behave, "idle")]
    _, counters = play(tools, *[("tool", str(i / 100)) for i in range(1, 101)], concurrency=100)
    figures = counters.figures()
    for share in (50, 90, 99):
        assert figures[f"tools/tool_p{share}_s"] == pytest.approx(share / 100, rel=0.026)
        assert figures[f"tools/idle_p{share}_s"] == 0
    none = (counters - counters.snapshot()).figures()
    assert none.keys() == figures.keys() and set(none.values()) == {0.0}
