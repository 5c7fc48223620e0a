"""The stages: the batch source and the objective that each one trains with.

The parameters that a stage starts from are asked for where they are needed, and not where the record has what was
made from them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from mirothinker_jax.config import TrainingConfig
from mirothinker_jax.data.heldout import packed_rows
from mirothinker_jax.data.loader import SFTSource
from mirothinker_jax.data.preference import PreferenceSource
from mirothinker_jax.objectives.of_stage import objective_of
from mirothinker_jax.pipeline.lengths import sft_batches_per_epoch
from mirothinker_jax.pipeline.params import LazyParams
from mirothinker_jax.pipeline.records import read_or_fill, read_or_sample
from mirothinker_jax.pipeline.workshop import Workshop, task
from mirothinker_jax.rollout.collect import EpisodeSpec
from mirothinker_jax.rollout.sampling import Sampling
from mirothinker_jax.rollout.source import GRPOSource
from mirothinker_jax.tasks.rules import is_correct
from mirothinker_jax.trainer.reference import make_reference
from mirothinker_jax.trainer.validation import Validation, make_heldout_loss
from mirothinker_jax.trajectory.pairs import make_pairs
from mirothinker_jax.trajectory.reward import with_reward
from mirothinker_jax.trajectory.types import Trajectory
from mirothinker_jax.trajectory.views import preference_pair
from mirothinker_jax.types import Batch, BatchSource, Objective


class Stage(NamedTuple):
    training: TrainingConfig
    source: BatchSource
    objective: Objective
    validation: Validation | None = None


def sft_stage(shop: Workshop, before: LazyParams) -> Stage:
    """Conversations, packed; mean negative log-likelihood."""
    c = shop.config
    training = with_steps(c.sft.training, lambda: sft_batches_per_epoch(shop))
    source = SFTSource(
        shop.conversations,
        shop.chat,
        c.data,
        training.sequence_length,
        training.batch_size,
        c.seed,
        *shop.shard,
    )
    objective = objective_of(c, "sft")
    heldout = shop.heldout
    if heldout is None:
        return Stage(training, source, objective)
    rows = lambda: packed_rows(heldout, shop.chat, training.sequence_length)  # noqa: E731
    loss = make_heldout_loss(shop.model, objective, rows, training.microbatch_size)
    return Stage(training, source, objective, Validation(c.sft.validate_every, loss))


def dpo_stage(shop: Workshop, before: LazyParams) -> Stage:
    """Pairs sampled from the policy that this stage starts from, which is also the reference."""
    c = shop.config.dpo
    episodes = _samples(shop, before)
    pairs = make_pairs(episodes, c.pairs_per_question, shop.config.seed)

    def reference(batch: Batch) -> Batch:
        return make_reference(shop.model, before.get(), c.training.microbatch_size, shared=True)(batch)

    source = PreferenceSource(
        [preference_pair(*pair) for pair in pairs],
        lambda batch: read_or_fill(shop.folder / "dpo" / "reference.npz", batch, reference),
        sequence_length=c.training.sequence_length,
        pairs_per_row=c.pairs_per_row,
        rows=c.training.batch_size,
        seed=shop.config.seed,
        shard=shop.shard,
    )
    training = with_steps(c.training, lambda: source.rows / c.training.batch_size)
    return Stage(training, source, objective_of(shop.config, "dpo"))


def _samples(shop: Workshop, before: LazyParams) -> list[Trajectory]:
    """Several episodes for each of the stage's questions."""
    c = shop.config

    def sample(index: int, count: int) -> list[Trajectory]:
        tasks = [task(q) for q in shop.questions("dpo")]
        episodes = [
            EpisodeSpec(f"dpo-{n}-{m}", tasks[n], _seed(c.seed, n, m), c.agent.max_calls)
            for n in range(index, len(tasks), count)
            for m in range(c.dpo.samples)
        ]
        with shop.phases("dpo samples"), shop.bar(len(episodes), "dpo samples", "episode") as bar:
            sampled, _ = shop.collector.run(before.get(), episodes, Sampling(), bar)
        return [with_reward(t, is_correct) for t in sampled]

    return read_or_sample(shop.folder / "dpo" / "samples.jsonl", sample)


def _seed(*parts: int) -> int:
    return int(np.random.default_rng(parts).integers(2**31))


def grpo_stage(shop: Workshop, before: LazyParams) -> Stage:
    """Fresh episodes for every step, with group advantages."""
    c, m = shop.config.grpo, shop.model.config
    reference = None
    if c.kl_coef > 0:
        reference = make_reference(
            shop.model, before.get(), c.training.microbatch_size, shared=False, offload=True
        )
    tasks = [task(q) for q in shop.questions("grpo")]
    source = GRPOSource(
        c,
        tasks,
        shop.collector,
        is_correct,
        max_calls=shop.config.agent.max_calls,
        folder=shop.folder / "grpo" / "rollouts",
        seed=shop.config.seed,
        microbatch_size=c.training.microbatch_size // shop.shard[1],
        shard=(jax.process_index(), jax.process_count()),
        block=shop.shard,
        reference=reference,
        routes=(m.layers, m.moe.experts_per_token) if c.replay_routes else None,
    )
    training = with_steps(c.training, lambda: len(tasks) / c.questions)
    return Stage(training, source, objective_of(shop.config, "grpo"))


def with_steps(training: TrainingConfig, batches_per_epoch: Callable[[], float]) -> TrainingConfig:
    """The settings with steps for their epochs, rounded up."""
    if not training.epochs:
        return training
    # What float arithmetic adds to a whole number is no further step.
    steps = math.ceil(training.epochs * batches_per_epoch() - 1e-9)
    return dataclasses.replace(training, steps=max(1, steps), epochs=0.0)


STAGES: dict[str, Callable[[Workshop, LazyParams], Stage]] = {
    "sft": sft_stage,
    "dpo": dpo_stage,
    "grpo": grpo_stage,
}
