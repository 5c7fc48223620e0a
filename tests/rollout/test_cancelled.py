"""Episodes of a real engine that are cancelled at many moments, in a turn, in a call, in line: no page and no session
stays taken, and what was sampled by then is not sampled again."""

import asyncio
import dataclasses
import json

import numpy as np

from mirothinker_jax.agent.setting import Setting
from mirothinker_jax.config import ToolsConfig
from mirothinker_jax.rollout.collect import EpisodeSpec, Runtime, collect
from mirothinker_jax.rollout.local.driver import LocalEngine
from mirothinker_jax.tasks.types import Task, Verdict
from mirothinker_jax.tools.executor import ToolExecutor
from mirothinker_jax.tools.spec import ToolCall, ToolSpec, render_call
from mirothinker_jax.trajectory.journal import History, Journal

SETTING = Setting("", max_calls=5, context_tokens=64, turn_tokens=4, output_tokens=3)
SPECS = [EpisodeSpec(f"e-{n}", Task(f"q{n}", str(n), ""), n) for n in range(9)]  # on six slots


class Chat:
    """Of the tiny model's 64 tokens."""

    call_format = "mcp"

    def prompt(self, system, user, functions=()):
        return (int(user), 1, 2)

    def observation(self, texts, end=None, request=None):
        heard = [ord(character) % 60 for text in texts for character in text[:1]]
        return (*heard, 3) + (4,) * (request is not None)


class Whole:
    """Every turn counts as whole: a model that knows nothing seldom ends one."""

    def __init__(self, sampler):
        self._sampler, self.forget = sampler, sampler.forget

    async def generate(self, request):
        return dataclasses.replace(await self._sampler.generate(request), complete=True)


class Tool:
    """Keeps something for each episode, and takes its time."""

    spec = ToolSpec("s", "look", "a tool", {"type": "object"})

    def __init__(self):
        self.kept = set()

    async def begin(self, episode, files):
        await asyncio.sleep(0)
        self.kept.add(episode)

    async def end(self, episode):
        for _ in range(3):
            await asyncio.sleep(0)
        self.kept.discard(episode)

    async def run(self, arguments, request_id):
        for _ in range(int(request_id[2]) + 1):
            await asyncio.sleep(0)
        return request_id[2:]


async def grade(task, attempt):
    return Verdict(False)


def decode(ids):
    return render_call(ToolCall("s", "look", {"q": sum(ids)}))


async def play(device, path, moments):
    """The trajectories, after cancellations so many steps of the event loop after each beginning."""
    tool = Tool()
    async with (
        LocalEngine(device) as sampler,
        ToolExecutor([tool], ToolsConfig(), lambda t, n: (t, False)) as tools,
    ):
        runtime = Runtime(tools, Chat(), decode, SETTING, grade)

        async def once():
            with Journal(path) as journal:
                return await collect(
                    SPECS, engine=Whole(sampler), runtime=runtime, journal=journal, history=History(path)
                )

        for moment in moments:
            under_way = asyncio.create_task(once())
            before = sampler.sampled_tokens
            while sampler.sampled_tokens - before < moment and not under_way.done():
                await asyncio.sleep(0)
            under_way.cancel()
            await asyncio.wait([under_way])
            assert under_way.cancelled() and tool.kept == set() and sampler._sessions == {}
            while sampler._steps.busy:  # what was sent to the device comes back
                await asyncio.sleep(0)
            assert sampler._steps._pages[0].available == device.pages
        return await asyncio.wait_for(once(), 60)


def test_cancelled_at_many_moments(device, tmp_path):
    whole = asyncio.run(play(device("wide"), tmp_path / "whole.jsonl", ()))
    path = tmp_path / "e.jsonl"
    found = asyncio.run(play(device("wide"), path, (0, 2, 9, 13, 22, 40)))
    for ours, theirs in zip(found, whole, strict=True):
        assert ours.calls == 5
        assert [s.tokens for s in ours.segments] == [s.tokens for s in theirs.segments]
        ours, theirs = ([x for s in t.segments for x in s.logprobs] for t in (ours, theirs))
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    lines = [json.loads(line[9:]) for line in path.read_text("utf-8").splitlines()]
    done = [
        (e["episode"], e.get("context", e.get("request"))) for e in lines if e["event"] in ("turn", "call")
    ]
    assert len(done) == len(set(done)) == 9 * (6 + 5)
