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
from mirothinker_jax.parallel.processes import all_processes, barrier
from mirothinker_jax.rollout.collect import EpisodeSpec, Runtime, collect
from mirothinker_jax.rollout.local.device import Device
from mirothinker_jax.rollout.local.driver import LocalEngine
from mirothinker_jax.tools.executor import ToolExecutor
from mirothinker_jax.trajectory.journal import History, Journal, share
from mirothinker_jax.trajectory.types import Trajectory


class Collector:
    """Collects with one set of tools. The event loop and the tools' connections live as long as it does."""

    def __init__(
        self,
        make_device: Callable[[], Device],
        executor: ToolExecutor,
        runtime: Runtime,
    ):
        """`make_device` makes this process's engine, when something is sampled for the first time."""
        self._make_device, self._executor, self._runtime = make_device, executor, runtime
        self._runner = asyncio.Runner()

    @functools.cached_property
    def _device(self) -> Device:
        return self._make_device()

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
            self._device.load(params())
            try:
                with (
                    Journal(share(path, index, count)) as journal,
                    phase(len(own)) if phase else contextlib.nullcontext() as bar,
                ):
                    figures = self._runner.run(self._sample(own, journal, history, sampling, bar))
            finally:
                self._device.unload()
            barrier(f"episodes of {path}")
            history = History(path)
        places = range(len(specs)) if wanted is None else wanted
        return [history.require(specs[place].id) for place in places], figures

    async def _sample(
        self, specs: Sequence[EpisodeSpec], journal: Journal, history: History, sampling: Sampling, bar: Any
    ) -> dict[str, float]:
        begun, before = time.monotonic(), self._executor.counters.snapshot()
        async with LocalEngine(self._device) as sampler:
            engine: Engine = sampler
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
            figures = {
                "rollout/seconds": seconds,
                "rollout/sampled_tokens_per_s": sampler.sampled_tokens / seconds,
                "rollout/prefilled_tokens_per_s": sampler.prefilled_tokens / seconds,
            }
        return figures | (self._executor.counters - before).figures()

    def close(self) -> None:
        self._runner.run(self._executor.aclose())
        self._runner.close()
