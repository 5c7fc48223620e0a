"""How much GRPO gains where sampling goes on while the trainer computes.

    python benchmarks/async_gain.py

Real: all that decides what happens when. The buffer and its log, the stream of groups, episodes by the agent's loop,
journals, and asyncio. Not real: the device, which is a clock with these costs, as a model of 8B would take hours here.
One program runs at a time. A decode dispatch samples 8 tokens in every turn under way and takes 8 · (12 ms + 0.15 ms a
turn); a prefill takes 50 µs a token that is new to the session; after new weights, contexts are fed again. A training
step takes 30 s. Turns have a log-normal number of tokens (median 150, 99th percentile 600), episodes 4 to 28 calls,
results 512 tokens. Tools take log-normal times, median 1 s, 99th percentile 20 s. All of it is drawn by the episode's
name, the same for every row.

A step trains 8 groups of 8. Rows:
  lockstep: all episodes of a step take a turn together: the longest turn ends it, then the slowest tool. Those that are
    done leave. (Worked out from the same draws and costs, without any overhead.)
  sync: staleness 0. Episodes go on by themselves; the trainer begins when all are done.
  async: staleness 1.

idle_fraction: of the device, in the row async, from the end of the first step to that of the last one that is
measured; the run would go on.
vs_lockstep, vs_sync: trajectories an hour of that row over those of the others, in the same stretch.

Unusual: waits are skipped, as in executor_load.py. The clock is this process's time on the processor, and what was
skipped. So what the scheduler costs counts, and what else keeps the machine busy does not.
"""

from __future__ import annotations

import asyncio
import math
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from executor_load import MEDIAN_S, P99_S, SIGMA, SkippingLoop
from measuring import Options
from results import device, finish, table

from mirothinker_jax.agent.characters import Characters
from mirothinker_jax.agent.policy import Request, Turn
from mirothinker_jax.agent.setting import Setting
from mirothinker_jax.data.chat import Chat
from mirothinker_jax.rollout.buffer import Slots
from mirothinker_jax.rollout.collect import EpisodeSpec, Runtime
from mirothinker_jax.rollout.stream import Groups
from mirothinker_jax.rollout.walk import Walk
from mirothinker_jax.tasks.types import Attempt, Task, Verdict
from mirothinker_jax.tools.spec import ToolCall, ToolResult, render_call
from mirothinker_jax.trajectory.types import Trajectory

QUESTIONS, GROUP = 8, 8
STEP_S, ROW_S, PREFILL_S, TRAIN_S = 12e-3, 0.15e-3, 50e-6, 30.0
TOKENS_A_DISPATCH, PROMPT_TOKENS, RESULT_TOKENS = 8, 2048, 512
TURN_SIGMA = math.log(600 / 150) / 2.3263
CODEC = Characters()
CALL = (*CODEC.encode(render_call(ToolCall("s", "look", {"q": "x"}))), CODEC.im_end_id)
ANSWER = (*CODEC.encode("\\boxed{x}"), CODEC.im_end_id)


@cache
def calls_of(episode: str) -> int:
    """How many calls an episode makes."""
    return random.Random(f"{episode} calls").randint(4, 28)


def turn_tokens(episode: str, turn: int) -> int:
    return max(8, round(150 * math.exp(random.Random(f"{episode} {turn}").gauss(0, TURN_SIGMA))))


def tool_s(episode: str, turn: int) -> float:
    """Seconds that the call of a turn takes."""
    return MEDIAN_S * math.exp(random.Random(f"{episode} {turn} tool").gauss(0, SIGMA))


def dispatches_s(turns: int, count: int = 1) -> float:
    return count * TOKENS_A_DISPATCH * (STEP_S + turns * ROW_S)


class CountedLoop(SkippingLoop):
    """Its clock is the process's time on the processor, and what was skipped."""

    def time(self) -> float:
        return time.process_time() + self._skipping.skipped_s


class Device:
    """Runs one program at a time, the first that asks first."""

    def __init__(self) -> None:
        self._free = asyncio.Lock()
        self.busy_s = 0.0

    async def run(self, seconds: float) -> None:
        async with self._free:
            await asyncio.sleep(seconds)
            self.busy_s += seconds


@dataclass(eq=False)
class Sampling:
    """A turn under way."""

    session: str
    context: int
    left: int
    done: asyncio.Future[None]
    versions: list[int] = field(default_factory=list)


class DeviceEngine:
    """Continuous batching on the device: whoever waits is prefilled, then all decode together."""

    def __init__(self, on: Device):
        self._device, self.version = on, 0
        self._turns: list[Sampling] = []
        self._kept: dict[str, tuple[int, int]] = {}  # session → (version, tokens that need not be fed)
        self._count: dict[str, int] = {}  # turns of a session
        self._work = asyncio.Event()
        self._driver = asyncio.create_task(self._drive())

    async def generate(self, request: Request) -> Turn:
        name = request.session
        number = self._count.setdefault(name, 0)
        self._count[name] += 1
        tokens = turn_tokens(name, number)
        context = PROMPT_TOKENS + sum(turn_tokens(name, n) + RESULT_TOKENS for n in range(number))
        turn = Sampling(name, context, tokens, asyncio.get_running_loop().create_future())
        self._turns.append(turn)
        self._work.set()
        await turn.done
        ids = CALL if number < calls_of(name) else ANSWER
        return Turn(ids, (0.0,) * len(ids), True, versions=(min(turn.versions),) * len(ids))

    def forget(self, session: str) -> None:
        self._kept.pop(session, None)

    async def publish(self, params: Any, version: int) -> None:
        self.version = version

    async def release(self) -> None:
        """The device of this model has room for both."""

    async def aclose(self) -> None:
        self._driver.cancel()
        await asyncio.gather(self._driver, return_exceptions=True)

    async def _drive(self) -> None:
        while True:
            if not self._turns:
                self._work.clear()
                await self._work.wait()
            turns = list(self._turns)
            fed = 0
            for turn in turns:
                version, kept = self._kept.get(turn.session, (self.version, 0))
                kept = kept if version == self.version else 0
                fed += max(0, turn.context - kept)
                self._kept[turn.session] = self.version, turn.context
            version = self.version
            await self._device.run(fed * PREFILL_S + dispatches_s(len(turns)))
            for turn in turns:
                sampled = min(TOKENS_A_DISPATCH, turn.left)
                turn.left, turn.context = turn.left - sampled, turn.context + sampled
                turn.versions.append(version)
                self._kept[turn.session] = version, turn.context
                if turn.left == 0:
                    self._turns.remove(turn)
                    turn.done.set_result(None)
            await asyncio.sleep(0)


class WaitingTools:
    """An executor whose calls only take time."""

    def concurrent(self, call: ToolCall) -> bool:
        return True

    def changes(self, call: ToolCall) -> bool:
        return False

    async def begin(self, episode: str, files: Sequence[str] = ()) -> None:
        """Keeps nothing."""

    async def end(self, episode: str) -> None:
        """Keeps nothing."""

    async def execute(self, call: ToolCall, request_id: str) -> ToolResult:
        episode, _, number = request_id.partition(":")
        await asyncio.sleep(tool_s(episode, int(number.partition(".")[0])))
        return ToolResult("found")


async def by_chance(task: Task, attempt: Attempt) -> Verdict:
    return Verdict(random.Random(attempt.id).random() < 0.5)


@dataclass
class Row:
    """What a run came to, from the end of the first step to that of the last one."""

    seconds: float
    busy_s: float
    trajectories: int
    staleness_mean: float = 0.0
    staleness_max: float = 0.0

    @property
    def an_hour(self) -> float:
        return 3600 * self.trajectories / self.seconds

    @property
    def idle(self) -> float:
        return 1 - self.busy_s / self.seconds


async def play(slots: Slots, steps: int, folder: Path) -> Row:
    """The real scheduler over the device's clock, for so many steps of a longer run."""
    clock, on = asyncio.get_running_loop().time, Device()
    engine = DeviceEngine(on)
    setting = Setting("", max_calls=40, context_tokens=1 << 20, turn_tokens=4096, output_tokens=512)
    runtime = Runtime(WaitingTools(), Chat(CODEC), CODEC.decode, setting, by_chance)
    tasks = [Task(f"q{n}", f"{n}?", "x") for n in range(1000)]

    def equal(group: Sequence[Trajectory]) -> bool:
        return len({t.correct for t in group}) == 1

    groups = Groups(engine, runtime, Walk(tasks, slots.questions, 0), slots, folder, equal)
    row, begun, busy, ages = Row(0, 0, 0), 0.0, 0.0, []
    try:
        for step in range(steps):
            found, _ = await groups.next(step, None)
            await on.run(TRAIN_S)
            if step == 0:
                begun, busy = clock(), on.busy_s
            else:
                row.trajectories += sum(map(len, found))
                ages += [step - t.policy_version for group in found for t in group]
    finally:
        await groups.aclose()
        await engine.aclose()
    row.seconds, row.busy_s = clock() - begun, on.busy_s - busy
    row.staleness_mean, row.staleness_max = sum(ages) / len(ages), max(ages)
    return row


def lockstep(steps: Sequence[Sequence[EpisodeSpec]]) -> Row:
    """All episodes of a step take each turn together."""
    row = Row(0, 0, 0)
    for specs in steps:
        names = [spec.id for spec in specs]
        for turn in range(max(map(calls_of, names)) + 1):
            now = [name for name in names if calls_of(name) >= turn]
            new = PROMPT_TOKENS if turn == 0 else RESULT_TOKENS
            lengths = [math.ceil(turn_tokens(name, turn) / TOKENS_A_DISPATCH) for name in now]
            busy = new * len(now) * PREFILL_S
            busy += sum(dispatches_s(sum(n > i for n in lengths)) for i in range(max(lengths)))
            waits = [tool_s(name, turn + 1) for name in now if calls_of(name) > turn]
            row.seconds += busy + max(waits, default=0.0)
            row.busy_s += busy
        row.seconds, row.busy_s = row.seconds + TRAIN_S, row.busy_s + TRAIN_S
        row.trajectories += len(names)
    return row


def main() -> None:
    parser = Options(__doc__)
    parser.add("steps", 12, "of training; the first one is not measured")
    parser.add("window", 1, "of the row async")
    options = parser.parse_args()
    walk = Walk([Task("q", "?", "x")], QUESTIONS, 0)
    steps = [
        [s for p in range(n * QUESTIONS, (n + 1) * QUESTIONS) for s in walk.episodes(p, range(GROUP), 0)]
        for n in range(1, options.steps)
    ]
    rows = {"lockstep": lockstep(steps)}
    for name, staleness, window in (("sync", 0, 1), ("async", 1, options.window)):
        slots = Slots(QUESTIONS, GROUP, staleness, window)
        with (
            tempfile.TemporaryDirectory() as folder,
            asyncio.Runner(loop_factory=CountedLoop) as runner,
        ):
            rows[name] = runner.run(play(slots, options.steps, Path(folder)))
    lines = [
        (
            name,
            f"{row.an_hour:.0f}",
            f"{100 * row.idle:.1f}%",
            f"{row.seconds / (options.steps - 1):.0f}",
            f"{row.staleness_mean:.2f}",
            f"{row.staleness_max:.0f}",
        )
        for name, row in rows.items()
    ]
    print(
        "The device is a clock with stated costs (--help has them); scheduler, episodes and journals are real."
    )
    print(table(("", "trajectories/h", "idle", "s a step", "staleness", "max"), lines))
    ahead = rows["async"]
    finish(
        "async_gain",
        {
            "idle_fraction": round(ahead.idle, 4),
            "vs_lockstep": round(ahead.an_hour / rows["lockstep"].an_hour, 3),
            "vs_sync": round(ahead.an_hour / rows["sync"].an_hour, 3),
            "steps": options.steps,
            "questions": QUESTIONS,
            "group": GROUP,
            "staleness": 1,
            "window": options.window,
            "device_model": {
                "decode_step_s": STEP_S,
                "decode_row_s": ROW_S,
                "prefill_token_s": PREFILL_S,
                "training_s": TRAIN_S,
            },
            "tool_median_s": MEDIAN_S,
            "tool_p99_s": P99_S,
            "rows": {
                name: {
                    "trajectories_an_hour": round(row.an_hour, 1),
                    "idle": round(row.idle, 4),
                    "staleness_mean": round(row.staleness_mean, 3),
                    "staleness_max": row.staleness_max,
                }
                for name, row in rows.items()
            },
            "python": sys.version.split()[0],
            "device": device(),
        },
    )


if __name__ == "__main__":
    main()
