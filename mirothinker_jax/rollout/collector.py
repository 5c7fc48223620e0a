"""Episodes of many processes, each on its own devices, in one journal.

Sampling gathers the parameters from all processes, so all go along where one has something to run. Every process
needs to see the others' files.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from mirothinker_jax.agent.policy import Engine, Sampling
from mirothinker_jax.models.qwen import Params
from mirothinker_jax.parallel.placement import to_host
from mirothinker_jax.parallel.processes import all_processes, barrier
from mirothinker_jax.rollout.background import Background
from mirothinker_jax.rollout.buffer import Slots as SlotSettings
from mirothinker_jax.rollout.collect import EpisodeSpec, Runtime, collect
from mirothinker_jax.rollout.engine import Engine as Slots
from mirothinker_jax.rollout.sampler import Sampler
from mirothinker_jax.rollout.stream import Deadline, Groups
from mirothinker_jax.rollout.walk import Walk
from mirothinker_jax.tools.executor import ToolExecutor
from mirothinker_jax.trajectory.journal import History, Journal, share
from mirothinker_jax.trajectory.types import Trajectory


class Collector:
    """Collects with one set of tools. The event loop and the tools' connections live as long as it does."""

    def __init__(
        self,
        make_slots: Callable[[], Slots],
        executor: ToolExecutor,
        runtime: Runtime,
        replay_routes: bool = False,
    ):
        """`make_slots` makes the cache on this process's devices, when something is sampled for the first time. With
        `replay_routes` the experts of every token are recorded."""
        self._make_slots, self._executor, self._runtime = make_slots, executor, runtime
        self._replay_routes = replay_routes
        self._runner = asyncio.Runner()

    @functools.cached_property
    def _slots(self) -> Slots:
        return self._make_slots()

    def run(
        self,
        params: Callable[[], Params],
        specs: Sequence[EpisodeSpec],
        path: Path,
        sampling: Sampling = Sampling(),
        phase: Callable[[int], contextlib.AbstractContextManager[Any]] | None = None,
        mine: range | None = None,
        wanted: range | None = None,
    ) -> tuple[list[Trajectory], dict[str, float]]:
        """The trajectories of `specs`, or of those that are wanted, in their order, and figures of what had to be
        sampled for them.

        Args:
          params: asked for where something is missing.
          path: of the journal.
          phase: given the number of this process's episodes, what they are collected in; it gives a progress bar.
          mine: places in `specs` of what this process runs; None: every count-th.
          wanted: places of what is given back; None: all.

        Raises OutageError where the infrastructure breaks too many.
        """
        index, count = jax.process_index(), jax.process_count()
        own = [specs[place] for place in (range(index, len(specs), count) if mine is None else mine)]
        history, figures = History(path), {}
        if not all_processes(all(history.finished(spec.id) for spec in own)):
            version = max((spec.version for spec in specs), default=0)
            self._slots.load(to_host(params()))
            try:
                with (
                    Journal(share(path, index, count)) as journal,
                    phase(len(own)) if phase else contextlib.nullcontext() as bar,
                ):
                    figures = self._runner.run(self._sample(own, journal, history, sampling, bar, version))
            finally:
                self._slots.unload()
            barrier(f"episodes of {path}")
            history = History(path)
        places = range(len(specs)) if wanted is None else wanted
        return [history.require(specs[place].id) for place in places], figures

    async def _sample(
        self,
        specs: Sequence[EpisodeSpec],
        journal: Journal,
        history: History,
        sampling: Sampling,
        bar: Any,
        version: int,
    ) -> dict[str, float]:
        begun, before = time.monotonic(), self._executor.counters.snapshot()
        async with Sampler(self._slots, self._replay_routes, version) as sampler:
            engine: Engine = sampler
            await collect(
                specs,
                engine=engine,
                runtime=self._runtime,
                journal=journal,
                history=history,
                sampling=sampling,
                bar=bar,
            )
            seconds = max(time.monotonic() - begun, 1e-9)  # no episodes take no time
            figures = {
                "rollout/seconds": seconds,
                "rollout/sampled_tokens_per_s": sampler.sampled_tokens / seconds,
                "rollout/prefilled_tokens_per_s": sampler.prefilled_tokens / seconds,
            }
        return figures | (self._executor.counters - before).figures()

    def stream(
        self,
        walk: Walk,
        slots: SlotSettings,
        folder: Path,
        equal: Callable[[Sequence[Trajectory]], bool],
        deadline: Deadline,
    ) -> Background:
        """Groups that are sampled ahead (stream.py), of one process. Until it is closed, nothing else is collected."""
        return Background(
            self._runner,
            lambda: Sampler(self._slots, self._replay_routes),
            lambda engine: Groups(engine, self._runtime, walk, slots, folder, equal, deadline),
            self._executor.counters,
        )

    def close(self) -> None:
        self._runner.run(self._executor.aclose())
        self._runner.close()
