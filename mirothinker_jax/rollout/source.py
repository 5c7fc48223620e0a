"""GRPO's batches: questions → episodes → rewards → group advantages → packed rows.

Strictly on-policy: every rollout is sampled with the step's own parameters and used once. It is recorded before
it is trained on, so that a run that was killed repeats the steps after its checkpoint from the record (on as
many processes as made it: with another number the steps are sampled again).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mirothinker_jax.agent.episode import Task
from mirothinker_jax.config import ConfigError, GRPOConfig
from mirothinker_jax.data.packing import Sample, pack_rows, shift
from mirothinker_jax.models.qwen import Params
from mirothinker_jax.parallel.processes import all_processes, barrier, max_over_processes, mean_figures
from mirothinker_jax.rollout.collect import Collector, EpisodeSpec
from mirothinker_jax.rollout.sampling import Sampling
from mirothinker_jax.trajectory import store
from mirothinker_jax.trajectory.advantage import group_advantages
from mirothinker_jax.trajectory.reward import Grade, violates_format, with_reward
from mirothinker_jax.trajectory.types import Stop, Trajectory
from mirothinker_jax.trajectory.views import policy_sample
from mirothinker_jax.types import Batch


class GRPOSource:
    """A BatchSource that samples. Its only state is the step; the number of rows varies from step to step."""

    on_policy = True

    def __init__(
        self,
        config: GRPOConfig,
        tasks: Sequence[Task],
        collector: Collector,
        grade: Grade,
        *,
        max_calls: int,
        folder: Path,
        seed: int,
        microbatch_size: int,
        shard: tuple[int, int] = (0, 1),
        block: tuple[int, int] | None = None,
        reference: Callable[[Batch], Batch] | None = None,
        routes: tuple[int, int] | None = None,
    ):
        """`shard` is this process's (index, count) of the step's questions, which it samples. `block` is its
        (index, count) of row blocks, which it trains on; None: the same. Where several processes hold one
        block (they split its tokens or heads), each trains on what all of them sampled. `microbatch_size` is a
        block's share of a micro-batch; `reference` fills in `ref_logprobs` where a KL term needs them. `routes` is
        the (L, k) of the routers whose choices are recorded and replayed; None: they are not."""
        self._config, self._tasks, self._collector, self._grade = config, tasks, collector, grade
        self._max_calls, self._folder, self._seed = max_calls, folder, seed
        self._microbatch_size, self._shard, self._reference, self._routes = (
            microbatch_size,
            shard,
            reference,
            routes,
        )
        index, count = block or shard
        self._members = range(index * shard[1] // count, (index + 1) * shard[1] // count)

    def next(self, step: int, params: Params) -> tuple[Batch, dict[str, float]]:
        figures = self._record(step, params)
        trajectories = [t for member in self._members for t in store.read(self._path(step, member))]
        samples, left_out, equal = self._samples(trajectories)
        c = self._config
        batch = pack_rows(
            samples, c.training.sequence_length, self._microbatch_size, self._routes, c.aggregate
        )
        batch = batch.padded(
            max_over_processes(batch.shape[0]) - batch.shape[0]
        )  # every process gives as many rows
        if batch.shape[0]:
            # Zeros that nobody computes are zeros of the mean all the same (data/weights.py).
            batch.denominator[0, 0] += sum(shift(s, c.aggregate)["denominator"].sum() for s in left_out)
        if self._reference is not None:
            batch = self._reference(batch)
        return batch, mean_figures(figures | describe(trajectories) | {"equal_groups": equal})

    def _path(self, step: int, process: int) -> Path:
        return store.share(self._folder / f"step_{step:06d}.jsonl", process, self._shard[1])

    def _record(self, step: int, params: Params) -> dict[str, float]:
        """Samples what is not on record yet. Gathering the parameters takes every process, so one that has
        its share goes along, with nothing to sample, where another has not."""
        path = self._path(step, self._shard[0])
        recorded = path.exists()
        if all_processes(recorded):
            return {}
        episodes = [] if recorded else self._episodes(step)
        sampled, figures = self._collector.run(params, episodes, Sampling(routes=self._routes is not None))
        if not recorded:
            c = self._config
            graded = [with_reward(t, self._grade, c.correct_coef, c.format_coef) for t in sampled]
            store.write(path, [dataclasses.replace(t, policy_version=step) for t in graded])
        barrier(f"rollouts of step {step}")
        return figures

    def _episodes(self, step: int) -> list[EpisodeSpec]:
        """This process's episodes of the step: a shuffled walk through the questions, epoch by epoch."""
        index, count = self._shard
        per_step, total = self._config.questions, len(self._tasks)
        places = np.arange(step * per_step, (step + 1) * per_step).reshape(count, -1)[index]
        episodes = []
        for place in places:
            order = np.random.default_rng((self._seed, int(place) // total)).permutation(total)
            task = self._tasks[int(order[int(place) % total])]
            for member in range(self._config.group):
                episode_id = f"grpo-{step}-{place}-{member}"
                seed = int(np.random.default_rng((self._seed, step, place, member)).integers(2**31))
                episodes.append(EpisodeSpec(episode_id, task, seed, self._max_calls))
        return episodes

    def _samples(self, trajectories: list[Trajectory]) -> tuple[list[Sample], list[Sample], float]:
        """What is computed, what is left out, and the share of groups with equal rewards. These have no policy
        gradient, so they are left out, unless a KL term wants them."""
        size, equal = self._config.group, 0
        samples: list[Sample] = []
        left_out: list[Sample] = []
        groups = [trajectories[i : i + size] for i in range(0, len(trajectories), size)]
        for group in groups:
            # What failed for reasons outside the policy, or never asked it for a token, says nothing about it.
            usable = [t for t in group if t.stop is not Stop.INFRASTRUCTURE and t.segments]
            rewards = np.asarray([t.reward for t in usable])
            advantages = group_advantages(rewards, self._config.advantage)
            silent = not np.any(advantages)
            equal += silent
            place = left_out if silent and self._reference is None else samples
            place += [policy_sample(t, float(a)) for t, a in zip(usable, advantages, strict=True)]
        return samples, left_out, equal / len(groups)

    def get_state(self) -> dict[str, Any]:
        return {"seed": self._seed}

    def set_state(self, state: dict[str, Any]) -> None:
        if state["seed"] != self._seed:
            raise ConfigError(f"this run began with seed {state['seed']}, not {self._seed}; give it back")


def describe(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Figures of a set of episodes, means over episodes."""
    mean = lambda values: float(np.mean(list(values)))  # noqa: E731
    figures = {
        "reward": mean(t.reward for t in trajectories),
        "accuracy": mean(t.correct for t in trajectories),
        "calls": mean(t.calls for t in trajectories),
        "failed_calls": mean(t.failed_calls for t in trajectories),
        "format_violations": mean(violates_format(t) for t in trajectories),
        "episode_tokens": mean(t.tokens for t in trajectories),
    }
    return figures | {f"stop/{stop}": mean(t.stop is stop for t in trajectories) for stop in Stop}
