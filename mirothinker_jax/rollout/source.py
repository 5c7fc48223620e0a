"""GRPO's batches: questions → episodes → rewards → group advantages → packed rows.

Strictly on-policy by default: every rollout is sampled with the step's own parameters and used once. A step has a
journal, from which a run that was killed repeats the steps after its checkpoint, and goes on with the one that it was
in. With grpo.staleness or grpo.refill, a step's groups come from a stream (stream.py), which has samples ready before
they are asked for, or replaces groups that would teach nothing. Rows are made of them in the same way.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mirothinker_jax.config import ConfigError, GRPOConfig
from mirothinker_jax.config_tree import numbers_by_name
from mirothinker_jax.data.packing import pack_rows
from mirothinker_jax.models.qwen import Params
from mirothinker_jax.parallel.processes import gather_texts, max_over_processes, mean_figures, meet
from mirothinker_jax.rollout.background import Background
from mirothinker_jax.rollout.buffer import Slots
from mirothinker_jax.rollout.collector import Collector
from mirothinker_jax.rollout.stream import Deadline
from mirothinker_jax.rollout.walk import Walk, part_name, part_of
from mirothinker_jax.tasks.types import Task
from mirothinker_jax.trajectory.groups import GroupRows, group_rows
from mirothinker_jax.trajectory.journal import History, of_others
from mirothinker_jax.trajectory.reward import violates_format, with_reward
from mirothinker_jax.trajectory.types import Stop, Trajectory
from mirothinker_jax.types import Batch


class GRPOSource:
    """A BatchSource that samples. Its only state is the step; the number of rows varies from step to step."""

    on_policy = True

    def __init__(
        self,
        config: GRPOConfig,
        tasks: Sequence[Task],
        collector: Collector,
        *,
        folder: Path,
        seed: int,
        microbatch_size: int,
        shard: tuple[int, int] = (0, 1),
        block: tuple[int, int] | None = None,
        reference: Callable[[Batch], Batch] | None = None,
        routes: tuple[int, int] | None = None,
        reason_to_drop: Callable[[Trajectory], str] | None = None,
        steps: int = 1 << 40,
    ):
        """`shard` is this process's (index, count) of the step's questions, which it samples. `block` is its
        (index, count) of row blocks, which it trains on; None: the same. Where several processes hold one
        block (they split its tokens or heads), each trains on what all of them sampled. `microbatch_size` is a
        block's share of a micro-batch; `reference` fills in `ref_logprobs` where a KL term needs them. `routes` is
        the (L, k) of the routers whose choices are recorded and replayed; None: they are not. An episode that
        `reason_to_drop` gives a reason for is part of no group. Nothing is sampled ahead for more than `steps` steps.
        """
        self._config, self._collector, self._walk = config, collector, Walk(tasks, config.questions, seed)
        self._folder, self._seed, self._microbatch_size = folder, seed, microbatch_size
        self._reference, self._routes, self._reason_to_drop = reference, routes, reason_to_drop
        self._shard, self._block = shard, block or shard
        self._sampled, self._trained = (
            _part(config.questions * config.group, *p) for p in (self._shard, self._block)
        )
        self._steps = steps

    @functools.cached_property
    def _stream(self) -> Background:
        c = self._config
        slots = Slots(c.questions, c.group, c.staleness, c.window, c.refill, self._steps)
        slots = slots.share(*self._shard)
        deadline = Deadline(c.group_deadline_s, c.min_group)
        equal = lambda group: self._rows(group).equal  # noqa: E731
        return self._collector.stream(self._walk, slots, self._folder, equal, deadline)

    def next(self, step: int, params: Params) -> tuple[Batch, dict[str, float]]:
        c = self._config
        take = self._of_stream if c.streamed else self._of_this_step
        found, figures = take(step, params)
        groups = [self._rows(group) for group in found]
        pieces = [piece for group in groups for piece in group.pieces]
        batch = pack_rows(
            pieces, c.training.sequence_length, self._microbatch_size, self._routes, c.aggregate
        )
        batch = batch.padded(
            max_over_processes(batch.shape[0]) - batch.shape[0]
        )  # every process gives as many rows
        if batch.shape[0]:
            # Zeros that nobody computes are zeros of the mean all the same (data/weights.py).
            batch.denominator[0, 0] += sum(group.left_out for group in groups)
        if self._reference is not None:
            batch = self._reference(batch)
        equal = float(np.mean([group.equal for group in groups]))
        trajectories = [self._rewarded(t) for group in found for t in group]
        described = figures | describe(trajectories) | {"equal_groups": equal}
        if self._reason_to_drop is not None:
            described["dropped"] = sum(group.dropped for group in groups) / len(trajectories)
        return batch, mean_figures(described)

    def _of_this_step(self, step: int, params: Params) -> tuple[list[list[Trajectory]], dict[str, float]]:
        """The groups of the step's own places, sampled now."""
        c = self._config
        places = range(step * c.questions, (step + 1) * c.questions)
        specs = [spec for p in places for spec in self._walk.episodes(p, range(c.group), step)]
        found, figures = self._collector.run(
            lambda: params,
            specs,
            self._folder / part_name(step),
            mine=self._sampled,
            wanted=self._trained,
        )
        return [found[i : i + c.group] for i in range(0, len(found), c.group)], figures

    def _of_stream(self, step: int, params: Params) -> tuple[list[list[Trajectory]], dict[str, float]]:
        """The groups that are the step's, of this process's share; and those of the others that hold the same rows."""
        found, figures = self._stream.next(step, params)
        meet()  # a share may be late, and the devices have to sample
        if self._block[1] == self._shard[1]:
            return found, figures
        told = [self._block, [[t.id for t in group] for group in found]]
        groups = []
        for index, text in enumerate(gather_texts(json.dumps(told))):
            block, ids = json.loads(text)
            if tuple(block) == self._block:
                read = functools.cache(lambda number, index=index: self._history(number, index))
                groups += [[read(part_of(id)).require(id) for id in group] for group in ids]
        return groups, figures

    def _history(self, number: int, index: int) -> History:
        """Of a part, what process `index` has sampled of it, or found."""
        path = self._folder / part_name(number)
        return History(path, without=of_others(path, index, self._shard[1]))

    def _rewarded(self, trajectory: Trajectory) -> Trajectory:
        c = self._config
        terms = numbers_by_name("grpo.reward_terms", c.reward_terms)
        return with_reward(trajectory, c.correct_coef, c.format_coef, terms)

    def _rows(self, group: Sequence[Trajectory]) -> GroupRows:
        rewarded = [self._rewarded(t) for t in group]
        return group_rows(rewarded, self._config, self._reference is not None, self._reason_to_drop)

    def close(self) -> None:
        """Ends what is sampled ahead."""
        if "_stream" in vars(self):
            self._stream.close()

    def get_state(self) -> dict[str, Any]:
        return {"seed": self._seed}

    def set_state(self, state: dict[str, Any]) -> None:
        if state["seed"] != self._seed:
            raise ConfigError(f"this run began with seed {state['seed']}, not {self._seed}; give it back")


def _part(total: int, index: int, count: int) -> range:
    """The `index`th of `count` equal stretches of 0 … total."""
    return range(index * total // count, (index + 1) * total // count)


def describe(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Figures of a set of episodes: means over all, of reward and accuracy over those that were judged."""
    mean = lambda values: float(np.mean(list(values) or [0.0]))  # noqa: E731
    judged = [t for t in trajectories if t.correct is not None]
    figures = {
        "reward": mean(t.reward for t in judged),
        "accuracy": mean(bool(t.correct) for t in judged),
        "left_out": mean(t.correct is None for t in trajectories),
        "calls": mean(t.calls for t in trajectories),
        "failed_calls": mean(t.failed_calls for t in trajectories),
        "format_violations": mean(violates_format(t) for t in trajectories),
        "episode_tokens": mean(t.tokens for t in trajectories),
    }
    return figures | {f"stop/{stop}": mean(t.stop is stop for t in trajectories) for stop in Stop}
