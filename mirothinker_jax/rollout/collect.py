"""Many episodes at once: the agent loop over one engine and one set of tools, on one event loop."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mirothinker_jax.agent.episode import Setting, Task, run_episode
from mirothinker_jax.data.chat import Chat
from mirothinker_jax.data.tokenizer import TextCodec
from mirothinker_jax.models.qwen import Params
from mirothinker_jax.parallel.placement import to_host
from mirothinker_jax.rollout.engine import Engine
from mirothinker_jax.rollout.sampler import Sampler
from mirothinker_jax.rollout.sampling import Sampling
from mirothinker_jax.tools.executor import ToolExecutor
from mirothinker_jax.trajectory.types import Trajectory


@dataclass(frozen=True)
class EpisodeSpec:
    """One episode to run. `seed` decides all its sampling; `id` also names its requests to the tools."""

    id: str
    task: Task
    seed: int
    max_calls: int


class Collector:
    """Runs batches of episodes. The event loop and the tools' connections live as long as it does."""

    def __init__(
        self, engine: Engine, executor: ToolExecutor, chat: Chat, codec: TextCodec, setting: Setting
    ):
        self._engine, self._executor, self._chat, self._codec = engine, executor, chat, codec
        self._setting = setting
        self._runner = asyncio.Runner()

    def run(
        self, params: Params, episodes: Sequence[EpisodeSpec], sampling: Sampling, bar: Any = None
    ) -> tuple[list[Trajectory], dict[str, float]]:
        """The episodes' trajectories, in order, and figures of sampler and tools. `bar` counts finished ones."""
        self._engine.load(to_host(params))
        try:
            return self._runner.run(self._run(episodes, sampling, bar))
        finally:
            self._engine.unload()

    async def _run(
        self, episodes: Sequence[EpisodeSpec], sampling: Sampling, bar: Any
    ) -> tuple[list[Trajectory], dict[str, float]]:
        begun, before = time.monotonic(), self._executor.counters.snapshot()
        async with Sampler(self._engine, sampling) as sampler:

            async def one(episode: EpisodeSpec) -> Trajectory:
                trajectory = await run_episode(
                    episode.task,
                    policy=sampler,
                    executor=self._executor,
                    chat=self._chat,
                    decode=self._codec.decode,
                    setting=dataclasses.replace(self._setting, max_calls=episode.max_calls),
                    episode_id=episode.id,
                    seed=episode.seed,
                )
                if bar is not None:
                    bar.update(1)
                return trajectory

            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(e)) for e in episodes]
            seconds = max(time.monotonic() - begun, 1e-9)  # no episodes take no time
            figures = {
                "rollout/seconds": seconds,
                "rollout/sampled_tokens_per_s": sampler.sampled_tokens / seconds,
                "rollout/prefilled_tokens_per_s": sampler.prefilled_tokens / seconds,
            }
        tools = (self._executor.counters - before).figures()
        return [t.result() for t in tasks], figures | tools

    def close(self) -> None:
        self._runner.run(self._executor.aclose())
        self._runner.close()
