"""The training loop: the only one. SFT, DPO and GRPO differ in the batch source and the objective.

Figures of a step are read when the next one is under way, so that the device never waits for the host to look at
them. Nothing else is read from the device, and nothing small is computed on it: either would wait for all that is
queued. A source that samples waits for the step before it anyway, so that step's figures are read first.

A step whose loss or gradient is not finite changes nothing, is counted, and its batch is kept on disk.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mirothinker_jax.config import TrainingConfig
from mirothinker_jax.models.qwen import Params, count_parameters
from mirothinker_jax.models.spec import ModelSpec
from mirothinker_jax.parallel.mesh import check_rows
from mirothinker_jax.parallel.placement import data_shard, to_global
from mirothinker_jax.trainer.checkpoint import Checkpoints
from mirothinker_jax.trainer.metrics import MetricsLog, progress
from mirothinker_jax.trainer.optimizer import make_optimizer
from mirothinker_jax.trainer.state import TrainState, abstract_state, init_state
from mirothinker_jax.trainer.step import make_step
from mirothinker_jax.trainer.validation import Validation
from mirothinker_jax.types import Batch, BatchSource, Objective

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Job:
    """One stage of training."""

    stage: str
    folder: Path
    training: TrainingConfig
    model: ModelSpec
    initial: Callable[[], Params]  # called only where there is no checkpoint
    source: BatchSource
    objective: Objective
    log: MetricsLog
    identity: dict[str, Any]  # of model and tokenizer, kept in the checkpoint
    config: dict[str, Any]  # resolved, kept in the checkpoint
    validation: Validation | None = None


def run(job: Job) -> TrainState:
    """Trains to the last step, from the newest checkpoint where there is one. Bit-exact across restarts."""
    c = job.training
    check_rows(job.model.mesh.shape, f"{job.stage}.training.microbatch_size", c.microbatch_size)
    optimizer = make_optimizer(c.optimizer, c.steps)
    with (
        jax.set_mesh(job.model.mesh),
        Checkpoints(job.folder / "checkpoints", c.keep_checkpoints, job.identity) as checkpoints,
    ):
        state, first = _start(job, checkpoints, optimizer)
        step = make_step(job.model, job.objective, optimizer)
        logger.info(
            "%s: %.3gM parameters, %d steps of %d × %d tokens on %d device(s)",
            *(job.stage, count_parameters(state.params) / 1e6, c.steps, c.batch_size, c.sequence_length),
            job.model.mesh.size,
        )
        bar = progress(c.steps, first, job.stage, "step", enabled=jax.process_index() == 0)
        late = _Late(job, bar)
        for number in range(first, c.steps):
            if job.source.on_policy:
                late.read()
            begun = time.monotonic()
            local, figures = job.source.next(number, state.params)
            loaded = time.monotonic()
            batch, used = to_global(
                job.model.mesh, local, c.microbatch_size, c.batch_size // c.microbatch_size
            )
            state, device_figures = step(state, batch, used)
            if job.validation and ((number + 1) % job.validation.every == 0 or number + 1 == c.steps):
                device_figures |= {"validation_loss": job.validation.loss(state.params)}
            late.read()
            late.hold(number, local, figures | {"time/source_s": loaded - begun}, device_figures)
            if (number + 1) % c.checkpoint_every == 0 or number + 1 == c.steps:
                late.read()
                checkpoints.save(state, job.source.get_state(), job.config)
        late.read()
        bar.close()
    return state


def _start(job: Job, checkpoints: Checkpoints, optimizer: Any) -> tuple[TrainState, int]:
    """The state, and the number of the step that it is before."""
    if checkpoints.latest is None:
        job.log.resume(-1, job.stage)  # of an attempt that was killed before its first checkpoint
        return init_state(job.model, optimizer, job.initial()), 0
    state, position = checkpoints.restore(abstract_state(job.model, optimizer))
    job.source.set_state(position)
    first = int(state.step)
    job.log.resume(first - 1, job.stage)
    logger.info("%s: resuming at step %d of %d", job.stage, first, job.training.steps)
    return state, first


class _Late:
    """Holds a step's figures until the next one is under way, then logs them."""

    def __init__(self, job: Job, bar: Any):
        self._job, self._bar = job, bar
        self._held: tuple[int, Batch, dict[str, float], dict[str, Any]] | None = None
        self._last = time.monotonic()

    def hold(self, number: int, batch: Batch, figures: dict[str, float], device: dict[str, Any]) -> None:
        self._held = (number, batch, figures, device)

    def read(self) -> None:
        if self._held is None:
            return
        number, batch, figures, device = self._held
        self._held = None
        values = {name: float(value) for name, value in jax.device_get(device).items()}
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        # Of the first process's rows; the others' are as full, to within the packing.
        tokens = int((batch.sequence >= 0).sum()) * data_shard(self._job.model.mesh)[1]
        values |= figures | {"time/step_s": seconds, "tokens_per_s": tokens / seconds}
        if not (np.isfinite(values["loss"]) and np.isfinite(values["grad_norm"])):
            _dump(self._job.folder / "bad_batches" / f"step_{number:06d}.{jax.process_index()}.npz", batch)
            logger.warning("%s step %d: not finite, skipped; its batch is kept", self._job.stage, number)
        last = number + 1 == self._job.training.steps
        if number % self._job.training.log_every == 0 or last or "validation_loss" in values:
            self._job.log.write(number, values, self._job.stage)
        self._bar.advance({k: round(values[k], 4) for k in ("loss", "reward") if k in values})


def _dump(path: Path, batch: Batch) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    leaves, _ = jax.tree_util.tree_flatten_with_path(batch)
    with partial.open("wb") as file:
        np.savez(file, **{jax.tree_util.keystr(p, simple=True, separator="."): v for p, v in leaves})
    partial.replace(path)
