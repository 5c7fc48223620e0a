"""Groups sampled ahead of the trainer, on an event loop: what is admitted, run, graded, and given to a step.

The buffer says which group is next, its log and the episodes' journals what became of it. Killed at any moment, the
same folder goes on: steps that were consumed are given out again as they were, groups under way go on at their turn,
nothing is trained twice. Episodes go on through a change of weights; a turn's tokens tell their versions.

A group whose deadline has passed ends as soon as `min_group` of its members are judged. They are the group that is
trained, and their rewards its mean; the others stay under way, and belong to the next group that is admitted.

Of several processes each has a stream of its share of the questions, on its own devices. They meet in `next`: all of
them publish together, and what a step takes of each share is up to that share alone.

Not exact: what is sampled after a restart, and with staleness above 0 at all, depends on when weights came. A group's
deadline counts anew after a restart.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mirothinker_jax.agent.policy import Engine, Request, Sampling, Turn
from mirothinker_jax.data.strict_json import DataError
from mirothinker_jax.rollout.buffer import Buffer, Group, Slots
from mirothinker_jax.rollout.collect import Runtime, Worker
from mirothinker_jax.rollout.group_log import GroupLog
from mirothinker_jax.rollout.walk import Walk, part_name
from mirothinker_jax.trajectory.journal import History, Journal, of_others, share
from mirothinker_jax.trajectory.types import Trajectory


class PublishedEngine(Engine, Protocol):
    """An engine whose weights can be changed while it samples."""

    async def publish(self, params: Any, version: int) -> None:
        """Samples with these from its next step on. Turns at work keep their tokens."""
        ...

    async def release(self) -> None:
        """Gives memory back, until something is published."""
        ...


@dataclass(frozen=True)
class Deadline:
    """After so many seconds a group ends with `members` judged members; 0: never."""

    seconds: float = 0.0
    members: int = 0


class _Part:
    """The journal of some places, open for writing, and what it held before."""

    def __init__(self, path: Path, index: int, count: int, make_worker: Callable[[Journal, History], Worker]):
        self.history = History(path, without=of_others(path, index, count))
        self.journal = Journal(share(path, index, count))
        self.worker = make_worker(self.journal, self.history)


class Groups:
    """All methods are for one event loop. `equal` says whether a group's members earned all the same."""

    def __init__(
        self,
        engine: PublishedEngine,
        runtime: Runtime,
        walk: Walk,
        slots: Slots,
        folder: Path,
        equal: Callable[[Sequence[Trajectory]], bool],
        deadline: Deadline = Deadline(),
    ):
        """Raises DataError where the folder's log is damaged."""
        self._engine, self._runtime = _Watched(engine), runtime
        self._walk, self._folder, self._equal, self._deadline = walk, folder, equal, deadline
        self._buffer = Buffer(slots)
        self._log = GroupLog(folder, self._buffer)
        self._parts: dict[int, _Part] = {}
        self._episodes: dict[str, asyncio.Task[Trajectory]] = {}
        self._games: set[asyncio.Task[None]] = set()
        self._found: dict[int, list[Trajectory]] = {}  # of finished groups
        self._changed = asyncio.Event()
        self._failure: BaseException | None = None
        self._begun = self._closing = False
        self._given: float | None = None  # when the last batch was
        self._tokens = 0  # that were sampled by then
        self._replaced = self._buffer.replaced

    async def next(self, step: int, params: Any) -> tuple[list[list[Trajectory]], dict[str, float]]:
        """Publishes the parameters before the step, waits for its groups, and gives their episodes and figures.

        Raises OutageError where the infrastructure breaks too many episodes, DataError where the log lacks a step.
        """
        clock = asyncio.get_running_loop().time
        asked, busy = clock(), self._engine.busy_s()
        await self._engine.publish(params, step)
        if step < len(self._log.consumed):
            groups = self._log.consumed[step]
            found = [list(await asyncio.gather(*self._run(group))) for group in groups]
            self._show(groups)
            self._forget(groups)
            return found, _staleness(step, found)
        if step > len(self._log.consumed):
            raise DataError(
                f"{self._folder}: step {step} comes next, and the log has what was trained up to step "
                f"{len(self._log.consumed)}; bring back the folder that belongs to the checkpoint, or remove the "
                "stage's folder to begin it anew"
            )
        self._buffer.publish(step)
        if not self._begun:
            self._begun = True
            for group in self._buffer.open:
                self._begin(group)
            for group in self._buffer.waiting:
                self._found[group.number] = list(await asyncio.gather(*self._run(group)))
        self._admit()
        while (groups := self._log.take()) is None:
            if self._failure is not None:
                raise self._failure
            assert self._games, "nothing is sampled, and no batch is ready"
            self._changed.clear()
            await self._changed.wait()
        if self._buffer.slots.staleness == 0:
            await self._engine.release()
        found = [self._found.pop(group.number) for group in groups]
        self._show(groups)
        now = clock()
        seconds = max(now - (asked if self._given is None else self._given), 1e-9)
        idle = now - asked - (self._engine.busy_s() - busy)
        tokens, self._tokens = self._engine.sampled_tokens - self._tokens, self._engine.sampled_tokens
        self._given = now
        self._forget(groups)
        return found, self._figures() | _staleness(step, found) | {
            "rollout/seconds": now - asked,  # that the trainer waited
            "rollout/idle_share": max(0.0, idle) / seconds,
            "rollout/sampled_tokens_per_s": tokens / seconds,
        }

    def _figures(self) -> dict[str, float]:
        replaced, self._replaced = self._buffer.replaced - self._replaced, self._buffer.replaced
        return {
            "rollout/groups_in_flight": float(len(self._buffer.open)),
            "rollout/groups_waiting": float(len(self._buffer.waiting)),
            "rollout/groups_replaced": float(replaced),
            "rollout/groups_in_queue": float(len(self._buffer.queue)),
        }

    async def aclose(self) -> None:
        """Ends what is under way. The journals have it."""
        self._closing = True
        tasks = [*self._games, *self._episodes.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.ExitStack() as stack:  # all of them, also where a disk is full
            stack.callback(self._log.close)
            for part in self._parts.values():
                stack.callback(part.journal.close)

    def _admit(self) -> None:
        while (group := self._log.admit()) is not None:
            self._begin(group)

    def _begin(self, group: Group) -> None:
        task = asyncio.get_running_loop().create_task(self._play(group))
        self._games.add(task)
        task.add_done_callback(functools.partial(self._ended, group))

    def _ended(self, group: Group, task: asyncio.Task[None]) -> None:
        self._games.discard(task)
        if not task.cancelled():
            self._failure = self._failure or task.exception()
        elif not self._closing:
            self._failure = self._failure or RuntimeError(
                f"group {group.number}: an episode of place {group.place} was cancelled by what it called"
            )
        self._changed.set()

    async def _play(self, group: Group) -> None:
        """Runs a group to its end."""
        tasks = self._run(group)
        ended = await self._wait(tasks)
        kept = [m for m, task in zip(group.members, tasks, strict=True) if task in ended]
        found = [task.result() for task in tasks if task in ended]
        part = self._part(self._walk.part(group.place))
        if out := [t.id for t in found if t.correct is None and not part.history.finished(t.id)]:
            part.journal.leave_out(out)
        if self._buffer.may_replace and self._equal(found):
            self._log.replace(group.number, kept)
            self._forget([Group(group.number, group.place, tuple(kept), group.version)])
            self._admit()
        else:
            self._found[group.number] = found
            self._log.finish(group.number, kept)

    async def _wait(self, tasks: Sequence[asyncio.Task[Trajectory]]) -> set[asyncio.Task[Trajectory]]:
        """Those that have ended, when the group may end: all of them, or enough after its deadline."""
        ended, left = await asyncio.wait(
            tasks, timeout=self._deadline.seconds or None, return_when=asyncio.FIRST_EXCEPTION
        )
        while left and sum(task.result().correct is not None for task in ended) < self._deadline.members:
            more, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
            ended |= more
        return ended

    def _run(self, group: Group) -> list[asyncio.Task[Trajectory]]:
        """Its episodes, those that are under way already among them."""
        worker, tasks = self._part(self._walk.part(group.place)).worker, []
        for spec in self._walk.episodes(group.place, group.members, group.version):
            if spec.id not in self._episodes:
                self._episodes[spec.id] = asyncio.get_running_loop().create_task(worker.trajectory(spec))
            tasks.append(self._episodes[spec.id])
        return tasks

    def _part(self, number: int) -> _Part:
        s = self._buffer.slots
        if number not in self._parts:
            self._parts[number] = _Part(
                self._folder / part_name(number),
                s.index,
                s.count,
                lambda journal, history: Worker(
                    self._engine, self._runtime, journal, history, Sampling(), s.questions * s.group
                ),
            )
        return self._parts[number]

    def _show(self, groups: Sequence[Group]) -> None:
        """Other processes, which may train on these too, can read them."""
        if self._buffer.slots.count > 1:
            for number in {self._walk.part(group.place) for group in groups}:
                self._part(number).journal.sync()

    def _forget(self, groups: Sequence[Group]) -> None:
        """Nobody asks for these episodes again; nor for the journals that have no others to come."""
        for group in groups:
            for spec in self._walk.episodes(group.place, group.members, group.version):
                del self._episodes[spec.id]
        buffer = self._buffer
        needed = {self._walk.part(g.place) for g in (*buffer.open, *buffer.waiting, *buffer.queue)}
        for number in self._parts.keys() - needed:
            self._parts.pop(number).journal.close()


def _staleness(step: int, found: Sequence[Sequence[Trajectory]]) -> dict[str, float]:
    ages = [step - t.policy_version for group in found for t in group]
    return {"staleness/mean": sum(ages) / len(ages), "staleness/max": float(max(ages))}


class _Watched:
    """An engine, and for how long somebody has waited for a turn of it."""

    def __init__(self, engine: PublishedEngine):
        self._engine, self._waiting, self._since, self._busy_s = engine, 0, 0.0, 0.0
        self.sampled_tokens = 0

    def busy_s(self) -> float:
        """Seconds in which at least one turn was being sampled."""
        now = asyncio.get_running_loop().time()
        return self._busy_s + (now - self._since if self._waiting else 0.0)

    async def generate(self, request: Request) -> Turn:
        with self._counted():
            turn = await self._engine.generate(request)
        self.sampled_tokens += len(turn.tokens)
        return turn

    @contextlib.contextmanager
    def _counted(self) -> Any:
        loop = asyncio.get_running_loop()
        if self._waiting == 0:
            self._since = loop.time()
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1
            if self._waiting == 0:
                self._busy_s += loop.time() - self._since

    def forget(self, session: str) -> None:
        self._engine.forget(session)

    async def publish(self, params: Any, version: int) -> None:
        await self._engine.publish(params, version)

    async def release(self) -> None:
        await self._engine.release()
