"""The calls of one turn: what runs together, in which order results come, and an episode from its record."""

import asyncio
import itertools
import random

import pytest
from scripted import CODEC, Script, Tools, call

from mirothinker_jax.agent.calls import batches
from mirothinker_jax.agent.setting import Setting
from mirothinker_jax.agent.wire.turn import Malformed
from mirothinker_jax.config import ToolsConfig
from mirothinker_jax.tools.executor import ToolExecutor
from mirothinker_jax.tools.replay import Recorded
from mirothinker_jax.tools.spec import Failure, ToolCall, ToolError, ToolResult, ToolSpec
from mirothinker_jax.trajectory.types import Stop

OUTAGE = Setting(None, 0, 0, 0, 0).outage_calls
SPECS = [
    ToolSpec("web", name, "", {"type": "object"}, concurrent=name == "look") for name in ("look", "code")
]


@pytest.mark.parametrize(
    ("turn", "wanted"),
    [
        ("llll", ["llll"]),
        ("cc", ["c", "c"]),
        ("llcll", ["ll", "c", "ll"]),
        ("clcc", ["c", "l", "c", "c"]),
        ("l?c?u", ["l?", "c", "?u"]),
        ("", []),
    ],
)
def test_what_runs_together(turn, wanted):
    """l: look, which may; c: code, which may not; u: an unknown tool; ?: malformed."""
    executor = ToolExecutor([Recorded(spec) for spec in SPECS], ToolsConfig(), CODEC.truncate)
    names = {"l": "look", "c": "code", "u": "none"}
    calls = [(c, Malformed("no") if c == "?" else ToolCall("web", names[c], {})) for c in turn]
    assert ["".join(number for number, _ in batch) for batch in batches(calls, executor)] == wanted


class Meeting(Tools):
    """Looks end only when three of them are under way, the last one first; code must be alone."""

    def __init__(self):
        super().__init__()
        self.waiting, self.log = [], []

    def concurrent(self, call):
        return call.tool == "look"

    async def execute(self, call, request_id):
        self.log.append(request_id)
        if call.tool == "look":
            self.waiting.append(asyncio.get_running_loop().create_future())
            mine = self.waiting[-1]
            if len(self.waiting) == 3:
                for future in reversed(self.waiting):
                    future.set_result(None)
                    await asyncio.sleep(0)
            await mine
        else:
            assert all(future.done() for future in self.waiting)
        return ToolResult(f"<{request_id}>")


def test_results_come_in_the_order_of_the_calls(play):
    tools = Meeting()
    trajectory, policy, _ = play([call() * 3 + call("code"), "\\boxed{x}"], tools, turn_tokens=1000)
    observed = policy.text(1)
    places = [observed.index(f"<e:1.{n}>") for n in range(4)]
    assert places == sorted(places) and trajectory.stop is Stop.ANSWERED


def test_outages_end_the_episode_where_they_did_one_by_one(play):
    """Calls beyond the limit may have run; the trajectory is that of a run in which they did not."""
    turn = "".join(call(n=n) for n in range(OUTAGE + 3))

    def answer(call):
        return ToolResult("HTTP 503", Failure.NETWORK if call.arguments["n"] != 1 else None)

    together = play([turn, "\\boxed{x}"], Tools(answer), max_calls=20, turn_tokens=2000)[0]
    alone = Tools(answer)
    alone.concurrent = lambda call: False
    one_by_one = play([turn, "\\boxed{x}"], alone, max_calls=20, turn_tokens=2000)[0]
    assert together == one_by_one
    assert (together.stop, together.calls) == (Stop.INFRASTRUCTURE, OUTAGE + 2)
    assert len(alone.calls) == OUTAGE + 2


class Curious(Script):
    """Asks for what it just read, several calls a turn."""

    def __init__(self, turns):
        super().__init__([])
        self.turns = turns

    def next_line(self, request):
        seen = CODEC.decode(self.heard[-1][0])
        number = len(self.said)
        marks = [mark.partition(")")[0] for mark in seen.split("(")[1:]] or ["start"]
        words = "".join(
            call(name, q=f"{mark} {number}") for mark, name in zip(marks, itertools.cycle(("look", "code")))
        )
        return (words or "hm") if number < self.turns else f"\\boxed{{{marks[0]}}}"


class Flaky:
    def __init__(self, spec, seed):
        self.spec, self._random = spec, random.Random(seed)

    async def run(self, arguments, request_id):
        number = self._random.random()
        if number < 0.2:
            raise ToolError(Failure.NETWORK, f"HTTP 503 ({number})")
        return f"({number}) ({number + 1}) ü" + "x" * int(number * 60)


def test_an_episode_from_its_record_is_the_same_bit_for_bit(play, tmp_path):
    path = str(tmp_path / "calls")

    def episode(tools, **settings):
        executor = ToolExecutor(tools, ToolsConfig(output_tokens=60, **settings), CODEC.truncate)
        try:
            return play(Curious(5), executor, max_calls=40, turn_tokens=2000)[0]
        finally:
            asyncio.run(executor.aclose())

    made = episode([Flaky(spec, 1) for spec in SPECS], record=path)
    assert made.stop is Stop.ANSWERED and made.calls > 8 and 0 < made.failed_calls < made.calls
    assert episode([Flaky(spec, 2) for spec in SPECS]) != made
    assert episode([Recorded(spec) for spec in SPECS], replay=path) == made
