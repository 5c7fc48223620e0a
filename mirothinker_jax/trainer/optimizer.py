"""AdamW with global-norm clipping, warm-up and a schedule, all optax."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import optax

from mirothinker_jax.config import OptimizerConfig

NOT_DECAYED = ("weight", "bias")  # RMSNorm weights and projection biases


class Optimizer(NamedTuple):
    """An optax.GradientTransformation that works on each number alone, what clips all gradients before it (and has no
    state), and whether the state waits in the host's memory."""

    init: optax.TransformInitFn
    update: optax.TransformUpdateFn
    clip: optax.GradientTransformation
    offload: bool

    @property
    def space(self) -> Any:
        return jax.memory.Space.Host if self.offload else jax.memory.Space.Device


def make_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Learning rate by number of updates done."""
    c, warmup = config, round(config.warmup_fraction * steps)
    rest = max(1, steps - warmup)
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

    adamw = optax.adamw(
        make_schedule(c, steps), b1=c.b1, b2=c.b2, eps=c.eps, weight_decay=c.weight_decay, mask=decayed
    )
    return Optimizer(*adamw, clip=optax.clip_by_global_norm(c.clip_norm), offload=c.offload)
