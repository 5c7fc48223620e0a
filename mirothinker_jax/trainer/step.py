"""The train step: one jitted function for every objective, mesh and number of micro-batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mirothinker_jax.models.head import logprobs_and_entropy
from mirothinker_jax.models.moe import Routing, balance_loss, busiest
from mirothinker_jax.models.qwen import Params, combine, merge, split
from mirothinker_jax.models.spec import ModelSpec
from mirothinker_jax.parallel.attend import make_attend
from mirothinker_jax.parallel.sharding import batch_sharding, replicated_sharding
from mirothinker_jax.trainer.optimizer import Optimizer
from mirothinker_jax.trainer.state import TrainState, state_shardings
from mirothinker_jax.trainer.update import update
from mirothinker_jax.types import Array, Batch, Objective

ROUNDING_SEED = 0x0B16
Step = Callable[[TrainState, Batch, Array], tuple[TrainState, dict[str, Array]]]


def forward(model: ModelSpec, params: Params, batch: Batch) -> tuple[Array, Array, Routing | None]:
    """Log-prob of each target and entropy of its distribution, float32 [B, T], zero where weight is 0; and what the
    routers of a mixture of experts did."""
    module = merge(model.graph, params)
    attend = make_attend(batch.spans, model.config.context)
    counts = batch.sequence >= 0
    hidden, _, routing = module(batch.tokens, batch.positions, attend, counts=counts, routes=batch.routes)
    return *logprobs_and_entropy(hidden, module.head_weight, batch.targets, batch.weights > 0), routing


class Whole(NamedTuple):
    """Of all micro-batches of a step, float32 scalars; 1 where there is none.

    denominator: what the loss is divided by. tokens: the trained ones, by whose number micro-batches share the
    load-balance loss of a mixture of experts, which is a mean over the tokens of each.
    """

    denominator: Array
    tokens: Array


def or_one(x: Array) -> Array:
    """x, or 1 where it is not positive: what to divide by."""
    return jnp.where(x > 0, x, 1.0)


def _trained_tokens(batch: Batch) -> Array:
    return jnp.sum(batch.weights > 0, dtype=jnp.float32)


def make_gradient(model: ModelSpec, objective: Objective) -> Callable:
    """(params, batch [M, B, T], micro-batches in use) → ((loss, metrics), gradients of the loss).

    The loss is divided here, by the denominator of the whole batch, over all micro-batches and devices; `metrics` are
    sums with their weights. Gradients are those of the trainable parameters. Trailing micro-batches beyond the count
    are padding and cost nothing: the loop does not reach them.
    """

    def one(params, batch, whole: Whole) -> tuple[Any, Any]:
        """Of a micro-batch [B, T]: its part of (loss, metrics), and the loss's gradients as a function of its own."""

        def loss(trained) -> tuple[Any, ...]:
            logprobs, entropy, routing = forward(model, combine(trained, frozen), batch)
            total, metrics = objective(logprobs, entropy, batch)
            value = total / whole.denominator
            if routing is not None:
                tokens, balance = _trained_tokens(batch), balance_loss(routing)
                value = value + model.config.moe.balance_coef * balance * tokens / whole.tokens
                mean = lambda x: (x * tokens, tokens)  # noqa: E731
                metrics |= {"router/balance": mean(balance), "router/busiest": mean(busiest(routing))}
            return value, (value, metrics)

        trained, frozen = split(model.config, params)
        _, pull, out = jax.vjp(loss, trained, has_aux=True)
        return out, pull

    def sum_over_microbatches(params, batch, count) -> tuple[Any, ...]:
        first = jax.tree.map(lambda x: x[0], batch)
        whole = Whole(or_one(batch.denominator.sum()), or_one(_trained_tokens(batch)))
        if batch.shape[0] == 1:
            out, pull = one(params, first, whole)
            return out, pull(jnp.ones_like(out[0]))[0]
        trained, _ = split(model.config, params)
        # Gradients add up in float32 whatever the parameters' dtype.
        zeros = lambda like: jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), like)  # noqa: E731
        sums = jax.tree.map(jax.new_ref, zeros(trained))
        figures: Any = zeros(jax.eval_shape(lambda: one(params, first, whole)[0]))

        def body(i, figures) -> Any:
            micro = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), batch)
            out, pull = one(params, micro, whole)
            add(pull, jnp.ones_like(out[0]), trained, sums)
            return jax.tree.map(lambda s, x: s + x.astype(s.dtype), figures, out)

        return jax.lax.fori_loop(0, count, body, figures), jax.tree.map(jax.freeze, sums)

    return sum_over_microbatches


def add(pull: Any, cotangent: Array, trained: Params, sums: Any) -> None:
    """Adds what `pull(cotangent)` gives to `sums`, references to float32.

    Of float32 parameters layer by layer, as the backward pass makes them: a micro-batch's gradients are never held
    beside the sums. Of others there is no such way, since a reference must be of the gradient's dtype.
    """
    place = lambda p, s: s if p.dtype == jnp.float32 else jax.new_ref(jnp.zeros_like(p))  # noqa: E731
    places = jax.tree.map(place, trained, sums)
    pull.with_refs(places)(cotangent)
    for s, made in zip(jax.tree.leaves(sums), jax.tree.leaves(places), strict=True):
        if made is not s:
            s[...] += made[...].astype(jnp.float32)


def make_step(model: ModelSpec, objective: Objective, optimizer: Optimizer) -> Step:
    """The jitted step: (state, batch [M, B, T], count) → (state, figures). The state is donated.

    Where the loss or the gradient is not finite, and where there is no gradient at all (every group of a GRPO step
    earned equal rewards), the parameters and the optimizer stay as they were, and `skipped` counts it: momentum and
    weight decay alone are no training.
    """
    gradient = make_gradient(model, objective)

    def step(state: TrainState, batch: Batch, count: Array) -> tuple[TrainState, dict[str, Array]]:
        (loss, metrics), gradients = gradient(state.params, batch, count)
        trained, frozen = split(model.config, state.params)
        gradients = jax.tree.map(lambda g: g.astype(jnp.float32), gradients)
        norm = optax.tree.norm(gradients)
        usable = jnp.isfinite(loss) & jnp.isfinite(norm) & (norm > 0)
        # Its own stream of noise for each step, the same after a restart.
        key = jax.random.fold_in(jax.random.key(ROUNDING_SEED), state.step)
        updated, opt_state = update(optimizer, gradients, state.opt_state, trained, usable, key)
        new = TrainState(
            step=state.step + 1,
            skipped=state.skipped + (~usable).astype(jnp.int32),
            params=combine(updated, frozen),
            opt_state=opt_state,
        )
        figures = {name: s / or_one(w) for name, (s, w) in metrics.items()}
        figures |= {"loss": loss, "grad_norm": norm, "skipped": new.skipped}
        figures |= {"denominator": batch.denominator.sum()}
        # The optimizer's own: it counts the updates that were made.
        figures |= {"learning_rate": optimizer.schedule(state.step - state.skipped)}
        return new, figures

    return _jit(model, step, state_shardings(model, optimizer), 1, donate_argnums=0)


def make_logprobs(model: ModelSpec, where: Params | None = None) -> Callable[[Params, Batch], Array]:
    """Jitted (params, batch [B, T]) → log-probs of the targets [B, T]: for reference models. `where`: the parameters'
    shardings, if not the model's."""

    def logprobs(params: Params, batch: Batch) -> Array:
        return forward(model, jax.device_put(params, jax.memory.Space.Device), batch)[0]

    rows = batch_sharding(model.mesh)
    return jax.jit(logprobs, in_shardings=(where or model.shardings, rows), out_shardings=rows)


def _jit(model: ModelSpec, step: Any, state: TrainState, leading: int, **options: Any) -> Any:
    whole = replicated_sharding(model.mesh)
    rows = batch_sharding(model.mesh, leading)
    return jax.jit(step, in_shardings=(state, rows, whole), out_shardings=(state, whole), **options)
