"""A run that samples ahead, without devices: a scripted engine, tools that take their time, a trainer that counts.

Alone, `python ahead.py FOLDER` runs it to its end or until it is killed, and goes on when it is started again.
"""

import asyncio
import json
import random
import sys
from pathlib import Path

from mirothinker_jax.agent.characters import Characters
from mirothinker_jax.agent.policy import Turn
from mirothinker_jax.agent.setting import Setting
from mirothinker_jax.data.atomic import replacing
from mirothinker_jax.data.chat import Chat
from mirothinker_jax.rollout.buffer import Slots
from mirothinker_jax.rollout.collect import Runtime
from mirothinker_jax.rollout.stream import Deadline, Groups
from mirothinker_jax.rollout.walk import Walk
from mirothinker_jax.tasks.types import Task, Verdict
from mirothinker_jax.tools.spec import ToolCall, ToolResult, render_call

CODEC = Characters()
CALL = render_call(ToolCall("s", "look", {"q": "x"}))
TASKS = [Task(f"q{n}", f"question {n}?", "yes") for n in range(5)]
SLOTS = Slots(questions=2, group=3, staleness=1, window=3, batches=7)
CHECKPOINT_EVERY = 3


class Script:
    """An engine: two calls, then an answer. Every token has the version that is published."""

    def __init__(self, answer=lambda session: "yes"):
        self.answer, self.version, self.turns, self.released = answer, None, [], 0

    async def generate(self, request):
        await asyncio.sleep(0.001)
        self.turns.append(request.session)
        said = CODEC.decode(request.ids)
        answer = self.answer(request.session)
        text = f"\\boxed{{{answer}}}" if said.count("found") == 2 else CALL
        ids = (*CODEC.encode(text), CODEC.im_end_id)
        return Turn(ids, (-0.5,) * len(ids), True, versions=(self.version,) * len(ids))

    def forget(self, session):
        pass

    async def publish(self, params, version):
        self.version = version

    async def release(self):
        self.released += 1


class Tools:
    """`seconds` of each call by its request."""

    def __init__(self, seconds):
        self.seconds, self.calls = seconds, []

    def concurrent(self, call):
        return True

    def changes(self, call):
        return False

    async def begin(self, episode, files=()):
        pass

    async def end(self, episode):
        pass

    async def execute(self, call, request_id):
        self.calls.append(request_id)
        await asyncio.sleep(self.seconds(request_id))
        return ToolResult("found")


def log_normal(request):
    return 0.01 * random.Random(request).lognormvariate(0, 1.3)


async def by_answer(task, attempt):
    return Verdict(attempt.answer == task.answer)


def all_equal(group):
    return len({t.correct for t in group}) == 1


class Trainer:
    """Trains to the last step of `slots` from its checkpoint. What was trained is its state."""

    def __init__(
        self,
        folder,
        slots=SLOTS,
        deadline=None,
        equal=all_equal,
        engine=None,
        seconds=log_normal,
    ):
        self.slots, self.deadline, self.equal = slots, deadline or Deadline(), equal
        self.engine, self.tools = engine or Script(), Tools(seconds)
        self.folder, self.checkpoint = Path(folder), Path(folder) / f"checkpoint-{self.slots.index}.json"
        self.batches, self.figures = [], []

    async def run(self, train_s=0.03):
        self.batches = json.loads(self.checkpoint.read_text()) if self.checkpoint.exists() else []
        setting = Setting("Answer.", max_calls=5, context_tokens=5000, turn_tokens=500, output_tokens=100)
        runtime = Runtime(self.tools, Chat(CODEC), CODEC.decode, setting, by_answer)
        walk = Walk(TASKS, self.slots.questions * self.slots.count, 0)
        folder = self.folder / "rollouts"
        groups = Groups(self.engine, runtime, walk, self.slots, folder, self.equal, self.deadline)
        try:
            for step in range(len(self.batches), self.slots.batches):
                found, figures = await groups.next(step, None)
                self.figures.append(figures)
                await asyncio.sleep(train_s)
                self.batches.append([[[t.id, t.policy_version, t.tokens] for t in group] for group in found])
                if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == self.slots.batches:
                    with replacing(self.checkpoint) as scratch:
                        scratch.write_text(json.dumps(self.batches))
        finally:
            await groups.aclose()
        return self

    @property
    def trained(self):
        """Ids of episodes, in order."""
        return sorted(id for batch in self.batches for group in batch for id, *_ in group)


if __name__ == "__main__":
    asyncio.run(Trainer(sys.argv[1]).run())
