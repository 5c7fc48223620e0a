"""Episodes of many processes, each on its own devices, in one journal.

Sampling gathers the parameters from all processes, so all go along where one has something to run. Every process
needs to see the others' files.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from mirothinker_jax.agent.policy import Sampling
from mirothinker_jax.models.qwen import Params
from mirothinker_jax.parallel.processes import all_processes, barrier
from mirothinker_jax.rollout.background import Background
from mirothinker_jax.rollout.buffer import Slots
from mirothinker_jax.rollout.collect import EpisodeSpec, Runtime, collect
from mirothinker_jax.rollout.hosts import EngineHost
from mirothinker_jax.rollout.stream import Deadline, Groups
from mirothinker_jax.rollout.walk import Walk
from mirothinker_jax.tools.executor import ToolExecutor
from mirothinker_jax.trajectory.journal import History, Journal, share
from mirothinker_jax.trajectory.types import Trajectory


class Collector:
    """Collects with one set of tools. The event loop and the tools' connections live as long as it does."""

    def __init__(self, host: EngineHost, executor: ToolExecutor, runtime: Runtime):
        """`host` has the engine."""
        self._host, self._executor, self._runtime = host, executor, runtime
        self._runner = asyncio.Runner()

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
            self._runner.run(self._host.load(params(), version))
            try:
                with (
                    Journal(share(path, index, count)) as journal,
                    phase(len(own)) if phase else contextlib.nullcontext() as bar,
                ):
                    figures = self._runner.run(self._sample(own, journal, history, sampling, bar))
            finally:
                self._host.unload()
            barrier(f"episodes of {path}")
            history = History(path)
        places = range(len(specs)) if wanted is None else wanted
        return [history.require(specs[place].id) for place in places], figures

    async def _sample(
        self, specs: Sequence[EpisodeSpec], journal: Journal, history: History, sampling: Sampling, bar: Any
    ) -> dict[str, float]:
        begun, before = time.monotonic(), self._executor.counters.snapshot()
        tokens = self._host.counts()
        async with self._host.open() as engine:
            await collect(
                specs,
                engine=engine,
                runtime=self._runtime,
                journal=journal,
                history=history,
                sampling=sampling,
                done=lambda _: bar and bar.update(1),
            )
        seconds = max(time.monotonic() - begun, 1e-9)  # no episodes take no time
        figures = {"rollout/seconds": seconds}
        for name, count in self._host.counts().items():
            figures[f"rollout/{name}_per_s"] = (count - tokens.get(name, 0)) / seconds
        return figures | (self._executor.counters - before).figures()

    def stream(
        self,
        walk: Walk,
        slots: Slots,
        folder: Path,
        equal: Callable[[Sequence[Trajectory]], bool],
        deadline: Deadline,
    ) -> Background:
        """This process's groups that are sampled ahead (stream.py). Until it is closed, nothing else is collected."""
        return Background(
            self._runner,
            self._host.stream,
            lambda engine: Groups(engine, self._runtime, walk, slots, folder, equal, deadline),
            self._executor.counters,
        )

    def close(self) -> None:
        self._runner.run(self._executor.aclose())
        self._runner.run(self._host.aclose())
        self._runner.close()
