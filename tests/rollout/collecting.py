"""A program that collects scripted episodes, killed by SIGKILL in the middle of its n-th write, again and again.

`python collecting.py FOLDER SEED` forks a process for every start, as importing is what a start costs; none of them
imports jax. FOLDER/whole.jsonl is collected undisturbed, FOLDER/killed.jsonl by processes that are killed. It prints
how the latter ended.
"""

import asyncio
import json
import os
import random
import re
import signal
import sys
from pathlib import Path

from mirothinker_jax import checked_lines
from mirothinker_jax.agent.characters import Characters
from mirothinker_jax.agent.policy import Turn
from mirothinker_jax.agent.setting import Setting
from mirothinker_jax.config import ToolsConfig
from mirothinker_jax.data.chat import Chat
from mirothinker_jax.rollout.collect import EpisodeSpec, Runtime, collect
from mirothinker_jax.tasks.types import Task, Verdict
from mirothinker_jax.tools.executor import ToolExecutor
from mirothinker_jax.tools.spec import ToolCall, ToolSpec, render_calls
from mirothinker_jax.trajectory.journal import History, Journal

CODEC = Characters()
EPISODES, LONGEST = 12, 24  # writes of a process before it is killed


class Policy:
    """Two calls in each of three turns, then the answer. Its log-probs depend on the seed of the turn."""

    async def generate(self, request):
        await asyncio.sleep(0)
        said = CODEC.decode(request.ids)
        turn, episode = said.count("pong") // 2, re.search(r"question (\d+)\?", said)[1]
        calls = [ToolCall("s", "ping", {"q": f"{episode}.{turn}.{i}"}) for i in range(2)]
        ids = (*CODEC.encode(render_calls(calls) if turn < 3 else f"\\boxed{{{episode}}}"), CODEC.im_end_id)
        draw = random.Random(request.seed)
        return Turn(ids, tuple(-draw.randrange(64) / 64 for _ in ids), True)

    def forget(self, session):
        pass


class Ping:
    spec = ToolSpec("s", "ping", "a tool", {"type": "object"})

    async def run(self, arguments, request_id):
        await asyncio.sleep(0)
        return "pong " + arguments["q"]


async def grade(task, attempt):
    return Verdict(attempt.answer == task.answer)


async def run(path):
    specs = [EpisodeSpec(f"e-{n}", Task(f"q{n}", f"question {n}?", str(n)), n) for n in range(EPISODES)]
    setting = Setting("Answer.", max_calls=9, context_tokens=9000, turn_tokens=900, output_tokens=100)
    async with ToolExecutor([Ping()], ToolsConfig(), lambda text, most: (text, False)) as executor:
        runtime = Runtime(executor, Chat(CODEC), CODEC.decode, setting, grade, concurrency=3)
        with Journal(path) as journal:
            await collect(specs, engine=Policy(), runtime=runtime, journal=journal, history=History(path))


def kill_in_write(number, part):
    """SIGKILL in the `number`th write from now, when this part of its bytes is written."""
    append, left = checked_lines.append_bytes, [number]

    def dying(file, data):
        left[0] -= 1
        if left[0] < 0:
            file.write(data[: int(part * len(data))])
            os.kill(os.getpid(), signal.SIGKILL)
        return append(file, data)

    checked_lines.append_bytes = dying


def start(path, number, part):
    """How a process that collects to `path` ended: 0, or minus the signal."""
    if (child := os.fork()) == 0:
        kill_in_write(number, part)
        asyncio.run(run(path))
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(folder, seed):
    draw, ends = random.Random(seed), []
    asyncio.run(run(folder / "whole.jsonl"))
    while (not ends or ends[-1]) and len(ends) < 200:
        ends.append(
            start(folder / "killed.jsonl", draw.randrange(LONGEST), draw.choice([0, 1, draw.random()]))
        )
    print(json.dumps(ends))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
