"""The optimizer's update, a layer at a time: what waits in the host's memory passes through the device in slices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mirothinker_jax.models.qwen import STACKED, Params
from mirothinker_jax.trainer.optimizer import Optimizer
from mirothinker_jax.trainer.rounding import round_stochastically, to_float32
from mirothinker_jax.types import Array


def update(
    optimizer: Optimizer, gradients: Params, state: Any, params: Params, usable: Array, key: Array
) -> tuple[Params, Any]:
    """(parameters, state) after an update by these gradients, float32; both as they were where not `usable`, a bool.

    The optimizer works in float32; bfloat16 parameters take its result with stochastic rounding, with noise from `key`.
    """
    clipped: Params = optimizer.clip.update(gradients, optimizer.clip.init(params))[0]  # pyright: ignore

    def one(params: Params, state: Any, gradients: Any, key: Array) -> tuple[Params, Any]:
        state = jax.device_put(state, jax.memory.Space.Device)
        whole = to_float32(params)
        updates, moved = optimizer.update(gradients, state, whole)
        new = round_stochastically(optax.apply_updates(whole, updates), params, key), moved
        params, state = jax.tree.map(lambda a, b: jnp.where(usable, a, b), new, (params, state))
        return params, _arrays(lambda x: jax.device_put(x, optimizer.space), state)

    def layer(i: Array, whole: tuple[Params, Any]) -> tuple[Params, Any]:
        take = lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False)  # noqa: E731
        put = lambda x, part: jax.lax.dynamic_update_index_in_dim(x, part, i, 0)  # noqa: E731
        params, state, gradients = _arrays(take, (*whole, of_layers))
        return _arrays(put, whole, one(params, state, gradients, jax.random.fold_in(key, i)))

    of_layers, layers = _part(clipped, True), len(jax.tree.leaves(clipped[STACKED])[0])
    stacked = jax.lax.fori_loop(0, layers, layer, (_part(params, True), _part(state, True)))
    single, single_state, of_singles = (_part(tree, False) for tree in (params, state, clipped))
    rest = one(single, single_state, of_singles, jax.random.fold_in(key, layers))
    return _nodes(lambda a, b: a | b, rest, stacked)


def _arrays(change: Callable[..., Array], tree: Any, *others: Any) -> Any:
    """The tree with its arrays changed; scalars, which count updates, stay."""
    return jax.tree.map(lambda x, *y: change(x, *y) if x.ndim else x, tree, *others)


def _part(tree: Any, stacked: bool) -> Any:
    """Of parameters, or of a state that has trees like them: what has all layers in one array, or what has not."""
    return _nodes(lambda node: {k: v for k, v in node.items() if (k == STACKED) == stacked}, tree)


def _nodes(change: Callable[..., Params], tree: Any, *others: Any) -> Any:
    """The tree with each tree of parameters in it changed; whatever else there is stays."""
    of_parameters = lambda node: isinstance(node, dict)  # noqa: E731
    return jax.tree.map(
        lambda a, *b: change(a, *b) if of_parameters(a) else a, tree, *others, is_leaf=of_parameters
    )
