"""A whole benchmark run, as a process of its own that can be killed: `python benchmark_run.py FILE JUDGE_URL JOURNAL`.

The policy is a script that knows what it is to answer: the k-th question's reference in other words, in the same words,
something else, or nothing, so that the true figures are known.
"""

import asyncio
import json
import re
import sys
from pathlib import Path

from mirothinker_jax.agent.characters import Characters
from mirothinker_jax.agent.policy import Turn
from mirothinker_jax.agent.setting import Setting
from mirothinker_jax.config import TasksConfig
from mirothinker_jax.data.chat import Chat
from mirothinker_jax.evals.benchmark_environment import BenchmarkEnvironment
from mirothinker_jax.rollout.collect import EpisodeSpec, Runtime, collect
from mirothinker_jax.tasks import judge as judging
from mirothinker_jax.tools.spec import ToolCall, ToolResult, render_call
from mirothinker_jax.trajectory.journal import History, Journal

CODEC = Characters()
CALL = render_call(ToolCall("s", "look", {"q": "x"}))
QUESTIONS, RUNS = 20, 3


def said(number: int, run: int) -> str | None:
    """What the policy answers to a question in a run; its reference is "Town <number>"."""
    kind = (number + run) % 4
    return (f"the place called Town {number}, of course", f"town {number}", f"Village {number}", None)[kind]


def is_right(number: int, run: int) -> bool:
    return (number + run) % 4 < 2


class Policy:
    """One call, then the answer."""

    async def generate(self, request):
        await asyncio.sleep(0.005)
        text = CODEC.decode(request.ids)
        number, run = int(re.findall(r"town (\d+)\?", text)[-1]), int(request.session.rpartition("#")[2][0])
        answer = said(number, run)
        spoken = "I cannot say." if answer is None else f"\\boxed{{{answer}}}"
        ids = (*CODEC.encode(spoken if "found" in text else CALL), CODEC.im_end_id)
        return Turn(ids, (-0.5,) * len(ids), True)

    def forget(self, session):
        pass


class Tools:
    """Says "found". `files`: what each episode was given."""

    def __init__(self):
        self.files = {}

    def concurrent(self, call):
        return True

    def changes(self, call):
        return False

    async def begin(self, episode, files=()):
        self.files[episode] = tuple(files)

    async def end(self, episode):
        pass

    async def execute(self, call, request_id):
        return ToolResult("found")


def run(file: str, url: str, journal: Path):
    """The environment, the episodes of each run, and what the tools were given."""
    judging._FIRST_WAIT_S = 0.02
    settings = TasksConfig(
        grader="judge", judge_url=url, judge_model="m", judge_timeout_s=0.3, judge_retries=4, tries=5,
        judge_cache_file=str(journal.with_name("verdicts.jsonl")),
    )  # fmt: skip
    environment, tools = BenchmarkEnvironment("gaia", file, settings, list), Tools()
    tasks = environment.tasks("heldout", QUESTIONS, 0)
    specs = [EpisodeSpec(f"eval/{t.id}#{r}", t, r) for r in range(RUNS) for t in tasks]
    setting = Setting("Answer.", max_calls=5, context_tokens=5000, turn_tokens=500, output_tokens=100)
    runtime = Runtime(tools, Chat(CODEC), CODEC.decode, setting, environment.grader, 4, settings.tries)

    async def play():
        with Journal(journal) as written:
            return await collect(
                specs, engine=Policy(), runtime=runtime, journal=written, history=History(journal)
            )

    found = asyncio.run(play())
    return environment, [found[i * len(tasks) : (i + 1) * len(tasks)] for i in range(RUNS)], tools


if __name__ == "__main__":
    _, runs, _ = run(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
    print(json.dumps([[t.correct for t in one] for one in runs]))
