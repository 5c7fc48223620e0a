"""The train step: one jitted function for every objective, mesh and number of micro-batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mirothinker_jax.models.head import logprobs_and_entropy
from mirothinker_jax.models.qwen import Params, merge
from mirothinker_jax.models.spec import ModelSpec
from mirothinker_jax.parallel.attend import make_attend
from mirothinker_jax.parallel.sharding import batch_sharding, replicated
from mirothinker_jax.trainer.state import TrainState, state_shardings
from mirothinker_jax.types import Array, Batch, Objective

Step = Callable[[TrainState, Batch, Array], tuple[TrainState, dict[str, Array]]]


def forward(model: ModelSpec, params: Params, batch: Batch) -> tuple[Array, Array]:
    """Log-prob of each target and entropy of its distribution, float32 [B, T]; zero where weight is 0."""
    module = merge(model.graph, params)
    hidden, _ = module(batch.tokens, batch.positions, make_attend(batch.spans))
    return logprobs_and_entropy(hidden, module.head_weight, batch.targets, batch.weights > 0)


def make_gradient(model: ModelSpec, objective: Objective) -> Callable:
    """(params, batch [M, B, T], micro-batches in use) → ((total, weight, metrics), gradients of total), summed.

    Trailing micro-batches beyond the count are padding and cost nothing: the loop does not reach them.
    """

    def one(params, batch):
        def loss(params):
            out = objective(*forward(model, params, batch), batch)
            return out.total, out

        gradients, out = jax.grad(loss, has_aux=True)(params)
        return tuple(out), gradients

    def summed(params, batch, count):
        first = jax.tree.map(lambda x: x[0], batch)
        if batch.shape[0] == 1:
            return one(params, first)
        shapes = jax.eval_shape(one, params, first)
        # Gradients add up in float32 whatever the parameters' dtype.
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, jnp.float32), shapes)

        def body(i, sums):
            micro = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), batch)
            return jax.tree.map(lambda s, x: s + x.astype(s.dtype), sums, one(params, micro))

        return jax.lax.fori_loop(0, count, body, zeros)

    return summed


def make_step(model: ModelSpec, objective: Objective, optimizer: optax.GradientTransformation) -> Step:
    """The jitted step: (state, batch [M, B, T], count) → (state, figures). The state is donated.

    The sums of loss and gradient are divided once by the step's whole weight, so packing, micro-batches
    and shards cannot change the update. Where the loss or the gradient is not finite, and where there is no
    gradient at all (every group of a GRPO step earned equal rewards), the parameters and the optimizer stay as
    they were, and `skipped` counts it: momentum and weight decay alone are no training.
    """
    gradient = make_gradient(model, objective)

    def step(state: TrainState, batch: Batch, count: Array):
        (total, weight, metrics), gradients = gradient(state.params, batch, count)
        share = 1.0 / jnp.where(weight > 0, weight, 1.0)
        gradients = jax.tree.map(lambda g, p: (g * share).astype(p.dtype), gradients, state.params)
        loss, norm = total * share, optax.tree.norm(gradients)
        usable = jnp.isfinite(loss) & jnp.isfinite(norm) & (norm > 0)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        keep = lambda new, old: jax.tree.map(lambda a, b: jnp.where(usable, a, b), new, old)  # noqa: E731
        new = TrainState(
            step=state.step + 1,
            skipped=state.skipped + (~usable).astype(jnp.int32),
            params=keep(params, state.params),
            opt_state=keep(opt_state, state.opt_state),
        )
        figures = {name: s / jnp.where(w > 0, w, 1.0) for name, (s, w) in metrics.items()}
        figures |= {"loss": loss, "grad_norm": norm, "weight": weight, "skipped": new.skipped}
        return new, figures

    return _jit(model, step, state_shardings(model, optimizer), 1, donate_argnums=0)


def make_logprobs(model: ModelSpec) -> Callable[[Params, Batch], Array]:
    """Jitted (params, batch [B, T]) → log-probs of the targets [B, T]: for reference models."""

    def logprobs(params: Params, batch: Batch) -> Array:
        return forward(model, params, batch)[0]

    rows = batch_sharding(model.mesh)
    return jax.jit(logprobs, in_shardings=(model.shardings, rows), out_shardings=rows)


def _jit(model: ModelSpec, step: Any, state: TrainState, leading: int, **options: Any) -> Any:
    whole = replicated(model.mesh)
    rows = batch_sharding(model.mesh, leading)
    return jax.jit(step, in_shardings=(state, rows, whole), out_shardings=(state, whole), **options)
