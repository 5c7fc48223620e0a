"""The stages: the batch source and the objective that each one trains with.

The parameters that a stage starts from are asked for where they are needed, and not where the record has what was
made from them.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import numpy as np

from mirothinker_jax.agent.wire.formats import call_keys
from mirothinker_jax.config import TrainingConfig
from mirothinker_jax.data.heldout import packed_rows
from mirothinker_jax.data.loader import SFTSource
from mirothinker_jax.data.packing import Pair, TreePair
from mirothinker_jax.data.preference import PreferenceSource
from mirothinker_jax.objectives.of_stage import objective_of
from mirothinker_jax.pipeline.lengths import rendered_pairs, sft_batches_per_epoch
from mirothinker_jax.pipeline.params import LazyParams
from mirothinker_jax.pipeline.prepare import Prepared
from mirothinker_jax.pipeline.records import read_or_fill
from mirothinker_jax.rollout.collect import EpisodeSpec
from mirothinker_jax.rollout.source import GRPOSource
from mirothinker_jax.trainer.reference import make_reference
from mirothinker_jax.trainer.validation import Validation, make_heldout_loss
from mirothinker_jax.trajectory.curation import curate, reason_to_drop
from mirothinker_jax.trajectory.pairs import make_pairs
from mirothinker_jax.trajectory.types import Trajectory
from mirothinker_jax.trajectory.views import preference_pair
from mirothinker_jax.types import Batch, BatchSource, Objective

logger = logging.getLogger(__name__)


class Stage(NamedTuple):
    training: TrainingConfig
    source: BatchSource
    objective: Objective
    validation: Validation | None = None
    close: Callable[[], None] = lambda: None


def sft_stage(ready: Prepared, before: LazyParams) -> Stage:
    """Conversations, packed; mean negative log-likelihood."""
    c, text, learner = ready.place.config, ready.text, ready.learner
    assert text.conversations is not None
    training = with_steps(
        c.sft.training, lambda: sft_batches_per_epoch(ready.place, text, learner, ready.lengths)
    )
    source = SFTSource(
        text.conversations,
        text.chat,
        c.data,
        training.sequence_length,
        training.batch_size,
        c.seed,
        *learner.shard,
    )
    objective = objective_of(c, "sft")
    heldout = text.heldout
    if heldout is None:
        return Stage(training, source, objective)
    rows = lambda: packed_rows(heldout, text.chat, training.sequence_length)  # noqa: E731
    loss = make_heldout_loss(learner.model, objective, rows, training.microbatch_size)
    return Stage(training, source, objective, Validation(c.sft.validate_every, loss))


def dpo_stage(ready: Prepared, before: LazyParams) -> Stage:
    """Pairs of the user's own, or sampled from the policy that this stage starts from, which is also the reference."""
    config, folder, model = ready.place.config, ready.place.folder / "dpo", ready.learner.model
    c = config.dpo

    def reference(batch: Batch) -> Batch:
        return make_reference(model, before.get(), c.training.microbatch_size, shared=True)(batch)

    source = PreferenceSource(
        rendered_pairs(ready.place, ready.text) if c.path else _sampled_pairs(ready, before),
        lambda batch: read_or_fill(folder / "reference.npz", batch, reference),
        sequence_length=c.training.sequence_length,
        pairs_per_row=c.pairs_per_row,
        rows=c.training.batch_size,
        seed=config.seed,
        shard=ready.learner.shard,
        **({"origin": c.path} if c.path else {}),
    )
    training = with_steps(c.training, lambda: source.rows / c.training.batch_size)
    return Stage(training, source, objective_of(config, "dpo"))


def _sampled_pairs(ready: Prepared, before: LazyParams) -> list[Pair | TreePair]:
    config = ready.place.config
    samples = _samples(ready, before)
    if config.dpo.curate:
        samples, dropped = curate(samples, call_keys(config.data.call_format))
        reasons = Counter(dropped.values()).most_common()
        logger.info(
            "dpo: %d episodes dropped%s", len(dropped), "".join(f"; {n} {reason}" for reason, n in reasons)
        )
    return [
        preference_pair(*pair) for pair in make_pairs(samples, config.dpo.pairs_per_question, config.seed)
    ]


def _samples(ready: Prepared, before: LazyParams) -> list[Trajectory]:
    """Several episodes for each of the stage's questions."""
    place, c = ready.place, ready.place.config
    assert ready.acting is not None and ready.collector is not None
    specs = [
        EpisodeSpec(f"dpo-{n}-{m}", task, _seed(c.seed, n, m))
        for n, task in enumerate(ready.acting.tasks["dpo"])
        for m in range(c.dpo.samples)
    ]
    path = place.folder / "dpo" / "samples.jsonl"
    return ready.collector.run(before.get, specs, path, phase=place.phase("dpo samples", "episode"))[0]


def _seed(*parts: int) -> int:
    return int(np.random.default_rng(parts).integers(2**31))


def grpo_stage(ready: Prepared, before: LazyParams) -> Stage:
    """Fresh episodes for every step, or nearly fresh ones, with group advantages."""
    config, learner = ready.place.config, ready.learner
    c, m = config.grpo, learner.model.config
    assert ready.acting is not None and ready.collector is not None
    reference = None
    if c.kl_coef > 0:
        reference = make_reference(
            learner.model, before.get(), c.training.microbatch_size, shared=False, offload=True
        )
    tasks = ready.acting.tasks["grpo"]
    training = with_steps(c.training, lambda: len(tasks) / c.questions)
    source = GRPOSource(
        c,
        tasks,
        ready.collector,
        folder=ready.place.folder / "grpo" / "rollouts",
        seed=config.seed,
        microbatch_size=c.training.microbatch_size // learner.shard[1],
        shard=(jax.process_index(), jax.process_count()),
        block=learner.shard,
        reference=reference,
        routes=(m.layers, m.moe.experts_per_token) if c.replay_routes else None,
        reason_to_drop=partial(reason_to_drop, calls_of=call_keys(config.data.call_format))
        if c.curate
        else None,
        steps=training.steps,
    )
    return Stage(training, source, objective_of(config, "grpo"), close=source.close)


def with_steps(training: TrainingConfig, batches_per_epoch: Callable[[], float]) -> TrainingConfig:
    """The settings with steps for their epochs, rounded up."""
    if not training.epochs:
        return training
    # What float arithmetic adds to a whole number is no further step.
    steps = math.ceil(training.epochs * batches_per_epoch() - 1e-9)
    return dataclasses.replace(training, steps=max(1, steps), epochs=0.0)


STAGES: dict[str, Callable[[Prepared, LazyParams], Stage]] = {
    "sft": sft_stage,
    "dpo": dpo_stage,
    "grpo": grpo_stage,
}
