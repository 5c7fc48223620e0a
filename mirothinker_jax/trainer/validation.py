"""The loss of held-out rows, in between the steps of training.

It is started like a step and read like one, so the host does not wait for it. Rows go to the device each time and are
not kept there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mirothinker_jax.models.qwen import Params
from mirothinker_jax.models.spec import ModelSpec
from mirothinker_jax.parallel.placement import data_shard, to_global
from mirothinker_jax.parallel.sharding import batch_sharding, replicated_sharding
from mirothinker_jax.trainer.step import forward, or_one
from mirothinker_jax.types import Array, Batch, Objective


class Validation(NamedTuple):
    """`loss(params)`, a float32 scalar on the device, is asked for every so many steps and after the last."""

    every: int
    loss: Callable[[Params], Array]


def make_heldout_loss(
    model: ModelSpec, objective: Objective, rows: Callable[[], Batch], microbatch_size: int
) -> Callable[[Params], Array]:
    """The objective's loss of all the rows, numpy [R, T], the same on every process; asked for once, when needed."""

    def loss(params: Params, batch: Batch, count: Array) -> Array:
        def body(i, total) -> Array:
            micro = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), batch)
            logprobs, entropy, _ = forward(model, params, micro)
            return total + objective(logprobs, entropy, micro).total

        total = jax.lax.fori_loop(0, count, body, jnp.zeros((), jnp.float32))
        return total / or_one(batch.denominator.sum())

    whole = replicated_sharding(model.mesh)
    shardings = (model.shardings, batch_sharding(model.mesh, leading=1), whole)
    run = jax.jit(loss, in_shardings=shardings, out_shardings=whole)
    held: list[Batch] = []

    def heldout(params: Params) -> Array:
        if not held:
            batch, (index, count) = rows(), data_shard(model.mesh)
            batch = batch.padded(-batch.shape[0] % microbatch_size)
            held.append(jax.tree.map(lambda x: x[index::count], batch))
        (local,) = held
        block = microbatch_size // data_shard(model.mesh)[1]
        return run(params, *to_global(model.mesh, local, microbatch_size, local.shape[0] // block))

    return heldout
