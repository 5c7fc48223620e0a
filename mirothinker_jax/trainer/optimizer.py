"""AdamW with global-norm clipping, warm-up and a schedule, all optax."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import optax

from mirothinker_jax.config import OptimizerConfig

NOT_DECAYED = ("weight", "bias")  # RMSNorm weights and projection biases


class Optimizer(NamedTuple):
    """An optax.GradientTransformation that works on each number alone, what clips all gradients before it (and has no
    state), its learning rate by number of updates done, and whether the state waits in the host's memory."""

    init: optax.TransformInitFn
    update: optax.TransformUpdateFn
    clip: optax.GradientTransformation
    schedule: optax.Schedule
    offload: bool

    @property
    def space(self) -> Any:
        return jax.memory.Space.Host if self.offload else jax.memory.Space.Device


def make_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Learning rate by number of updates done, 0 … steps − 1.

    The first `warmup_fraction` of the updates rise, the next is at the peak, and the last at the final value. A run
    without an update after the peak ends there.
    """
    c, warmup = config, min(round(config.warmup_fraction * steps), steps - 1)
    rest = max(1, steps - 1 - warmup)
    final = c.learning_rate * c.final_fraction
    after = {
        "cosine": optax.cosine_decay_schedule(c.learning_rate, rest, c.final_fraction),
        "linear": optax.linear_schedule(c.learning_rate, final, rest),
        "constant": optax.constant_schedule(c.learning_rate),
    }[c.schedule]
    if warmup == 0:
        return after
    # From one step's worth, not from zero: the first update should not be lost.
    start = optax.linear_schedule(c.learning_rate / (warmup + 1), c.learning_rate, warmup)
    return optax.join_schedules([start, after], [warmup])


def make_optimizer(config: OptimizerConfig, steps: int) -> Optimizer:
    c = config

    def decayed(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key not in NOT_DECAYED, params)

    schedule = make_schedule(c, steps)
    adamw = optax.adamw(schedule, b1=c.b1, b2=c.b2, eps=c.eps, weight_decay=c.weight_decay, mask=decayed)
    return Optimizer(
        *adamw, clip=optax.clip_by_global_norm(c.clip_norm), schedule=schedule, offload=c.offload
    )
