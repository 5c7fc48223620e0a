"""Episodes by their specs: what the journal has is read, what it lacks is run, graded and written down.

What the infrastructure broke is no episode: it is tried again, from where it broke, and left out after `tries` times.
Where more than a set share is left out, collecting stops with one line, and starting again goes on from the journal. A
grader that cannot judge is asked again in the same way; an episode that stays unjudged has no reward, and is never
taken for a wrong one.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mirothinker_jax.agent.calls import Executor
from mirothinker_jax.agent.episode import Setting, run_episode
from mirothinker_jax.agent.policy import Chat, Engine, Sampling
from mirothinker_jax.rollout.recorded import RecordedEngine, RecordedExecutor, without_lost
from mirothinker_jax.tasks.types import Grader, Task, Verdict
from mirothinker_jax.trajectory.journal import History, Journal, Unfinished
from mirothinker_jax.trajectory.types import Stop, Trajectory


class OutageError(Exception):
    """Too much of what was asked for was broken by services, not by the policy. Starting again goes on."""


@dataclass(frozen=True)
class EpisodeSpec:
    """One episode to run. `seed` decides all its sampling; `id` also names its requests to the tools; `max_calls`
    takes the setting's place where it is given."""

    id: str
    task: Task
    seed: int
    max_calls: int | None = None
    version: int = 0  # of the policy that samples it


@dataclass(frozen=True)
class Runtime:
    """What all episodes of a run share.

    Attributes:
      concurrency: episodes at once; 0: as many as there are, and the engine says who waits.
      tries: how often an episode is begun that the infrastructure breaks.
      broken_share: of the episodes asked for, the most that may be left out.
    """

    executor: Executor
    chat: Chat
    decode: Callable[[Sequence[int]], str]
    setting: Setting
    grader: Grader
    concurrency: int = 0
    tries: int = 3
    broken_share: float = 0.1


async def collect(
    specs: Sequence[EpisodeSpec],
    *,
    engine: Engine,
    runtime: Runtime,
    journal: Journal,
    history: History,
    sampling: Sampling = Sampling(),
    retry_broken: bool = False,
    done: Callable[[Trajectory], object] = lambda _: None,
) -> list[Trajectory]:
    """The episodes of `specs`, in their order. Those left out have Stop.INFRASTRUCTURE, or `correct` None.

    `history` is what the journal held before. With `retry_broken`, what was left out the last time is tried again.
    `done` is told of each episode with which nothing is left to do.

    Raises OutageError, and the engine's ConfigError.
    """
    worker = Worker(engine, runtime, journal, history, sampling, len(specs), retry_broken, done)
    gate = asyncio.Semaphore(runtime.concurrency) if runtime.concurrency else contextlib.nullcontext()

    async def one(spec: EpisodeSpec) -> Trajectory:
        async with gate:
            return await worker.trajectory(spec)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(spec)) for spec in specs]
    except BaseExceptionGroup as errors:
        raise _first(errors) from None  # the others ended with it
    trajectories = [task.result() for task in tasks]
    if left_out := [t.id for t in trajectories if t.correct is None and not history.finished(t.id)]:
        journal.leave_out(left_out)
    return trajectories


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class Worker:
    """Runs episodes that share a journal, `total` of them; `history` is what it held before."""

    def __init__(
        self,
        engine: Engine,
        runtime: Runtime,
        journal: Journal,
        history: History,
        sampling: Sampling,
        total: int,
        retry_broken: bool = False,
        done: Callable[[Trajectory], object] = lambda _: None,
    ):
        self._engine, self._runtime, self._journal, self._history = engine, runtime, journal, history
        self._sampling, self._total, self._retry_broken, self._done = sampling, total, retry_broken, done
        self._broken = 0

    async def trajectory(self, spec: EpisodeSpec) -> Trajectory:
        """The episode, with its verdict. Raises OutageError where too many were left out."""
        found = self._history.trajectory(spec.id)
        if found is None or (
            found.correct is None and (self._retry_broken or spec.id not in self._history.left_out)
        ):
            if found is None or found.stop is Stop.INFRASTRUCTURE:
                found = await self._run(spec)
            if found.stop is not Stop.INFRASTRUCTURE:
                found = await self._graded(spec, found)
        self._done(found)
        return found

    async def _run(self, spec: EpisodeSpec) -> Trajectory:
        known = self._history.unfinished.pop(spec.id, Unfinished())
        trajectory = None
        for number in range(self._runtime.tries):
            # The tools, and the noise of the embedded web, know a second try by its name.
            requests = spec.id if number == 0 else f"{spec.id}~{number}"
            known = without_lost(known)
            trajectory = await self._episode(spec, requests, known)
            if trajectory.stop is not Stop.INFRASTRUCTURE:
                break
        assert trajectory is not None
        self._journal.end(trajectory)
        if trajectory.stop is Stop.INFRASTRUCTURE:
            self._journal.verdict(spec.id, Verdict(None, trajectory.reason))
            self._leave_out("broke", trajectory.reason)
        return trajectory

    async def _episode(self, spec: EpisodeSpec, requests: str, known: Unfinished) -> Trajectory:
        runtime = self._runtime
        setting = runtime.setting
        if spec.max_calls is not None:
            setting = dataclasses.replace(setting, max_calls=spec.max_calls)
        engine = RecordedEngine(self._engine, self._journal, spec.id, known, runtime.decode)
        trajectory = await run_episode(
            spec.task,
            engine=engine,
            executor=RecordedExecutor(runtime.executor, self._journal, spec.id, known),
            chat=runtime.chat,
            decode=runtime.decode,
            setting=setting,
            episode_id=requests,
            seed=spec.seed,
            sampling=self._sampling,
        )
        metrics = {**trajectory.metrics, "max_calls": setting.max_calls}
        version = engine.oldest_version(spec.version)
        return dataclasses.replace(
            trajectory, id=spec.id, policy_version=version, metrics=metrics, correct=None
        )

    async def _graded(self, spec: EpisodeSpec, trajectory: Trajectory) -> Trajectory:
        verdict = Verdict(None, "not asked")
        for _ in range(self._runtime.tries):
            verdict = await self._runtime.grader(spec.task, trajectory)
            if verdict.correct is not None:
                break
        self._journal.verdict(spec.id, verdict)
        if verdict.correct is None:
            self._leave_out("could not be judged", verdict.reason)
        return dataclasses.replace(trajectory, **vars(verdict))

    def _leave_out(self, what: str, reason: str) -> None:
        self._broken += 1
        if self._broken > self._runtime.broken_share * self._total:
            raise OutageError(
                f"{self._broken} of {self._total} episodes {what}, more than tasks.broken_share="
                f"{self._runtime.broken_share:g} allows ({reason or 'see the journal'}); mend the service and start "
                "again: what is done is kept"
            )
