"""What training changes, as one pytree, and how it is laid out on the mesh.

Shapes first, then shardings, then arrays born sharded: no full copy of a parameter anywhere. Sampling is
counter-based (keys are folded from the run's seed and the step), so the step is all the RNG state there is.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mirothinker_jax.models.qwen import Params, split
from mirothinker_jax.models.spec import ModelSpec
from mirothinker_jax.parallel.sharding import on_host, replicated_sharding, with_shardings
from mirothinker_jax.trainer.optimizer import Optimizer
from mirothinker_jax.trainer.rounding import to_float32


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    step: Any  # int32, batches seen
    skipped: Any  # int32, batches without an update: loss or gradient not finite, or no gradient at all
    params: Params
    opt_state: Any


def _moments(model: ModelSpec, optimizer: Optimizer) -> Any:
    """Shapes of the optimizer's state, which is float32 whatever the parameters are."""
    return jax.eval_shape(
        lambda params: optimizer.init(to_float32(params)), split(model.config, model.abstract)[0]
    )


def state_shardings(model: ModelSpec, optimizer: Optimizer) -> TrainState:
    """The sharding of every leaf: optimizer moments, of trained parameters only, are split as their parameter is, and
    wait in the host's memory where the optimizer says so."""
    whole = replicated_sharding(model.mesh)
    moments = optax.tree_utils.tree_map_params(
        optimizer,
        lambda _, sharding: on_host(sharding) if optimizer.offload else sharding,
        _moments(model, optimizer),
        split(model.config, model.shardings)[0],
        transform_non_params=lambda _: whole,
    )
    return TrainState(step=whole, skipped=whole, params=model.shardings, opt_state=moments)


def abstract_state(model: ModelSpec, optimizer: Optimizer) -> TrainState:
    """Shape, dtype and sharding of every leaf: what a checkpoint is restored into."""
    scalar = jax.ShapeDtypeStruct((), jnp.int32)
    state = TrainState(scalar, scalar, model.abstract, _moments(model, optimizer))
    return with_shardings(state, state_shardings(model, optimizer))


def init_state(model: ModelSpec, optimizer: Optimizer, params: Params) -> TrainState:
    """A state at step 0 around these parameters (which it takes over: they are donated)."""

    def make(params) -> TrainState:
        zero = jnp.zeros((), jnp.int32)
        return TrainState(zero, zero, params, optimizer.init(to_float32(split(model.config, params)[0])))

    out = state_shardings(model, optimizer)
    with jax.set_mesh(model.mesh):
        return jax.jit(make, out_shardings=out, donate_argnums=0)(params)
