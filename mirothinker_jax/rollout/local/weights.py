"""Parameters on their way from the trainer to the engine: other devices, layout and dtype, leaf by leaf.

The trainer stacks a block's parameters over the layers, because it scans them. Sampling unrolls the layers, and a
slice of a stacked array would be copied at every token, so here each layer has arrays of its own.

What the model computes in float32 (norms' weights) stays as it is. What is cast here is what the model would cast at
every use, so nothing changes but memory. A layer's leaf is taken, cast and laid out at a time, on the devices where
they are the trainer's own; of other devices, it is whole on the host meanwhile. Key and value heads of which several
devices have copies are repeated there. A leaf that lies right as it is may be the very array of the trainer's: whoever
donates that ends the sampling.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mirothinker_jax.models.layers import ADAPTER_LEAVES
from mirothinker_jax.models.qwen import STACKED, Params
from mirothinker_jax.models.spec import ModelSpec
from mirothinker_jax.parallel.placement import to_host

# Cast at every use. Experts with adapters add the product before they cast, so they are left alone.
CAST = ("kernel", "bias", "embedding", "head")


def place(model: ModelSpec, params: Params) -> Params:
    """The parameters on the model's mesh: as `params` is, but STACKED is a list of layers.

    `params` are the trainer's, on any devices of any processes (all of which must call this), or arrays of the host.
    """
    stacked, dtype = params[STACKED], model.config.compute_dtype

    def whole(path, leaf, sharding) -> jax.Array:
        return _moved(leaf, None, _kind(path, {}, leaf, dtype), None, sharding)

    def layers(path, leaf, sharding, abstract) -> list[jax.Array]:
        kind, heads = _kind(path, stacked, leaf, dtype), None
        one = NamedSharding(model.mesh, PartitionSpec(*sharding.spec[1:]))
        if leaf.shape != abstract.shape:
            heads = next(d for d, n in enumerate(leaf.shape) if n != abstract.shape[d]) - 1, model.key_copies
        return [_moved(leaf, i, kind, heads, one) for i in range(leaf.shape[0])]

    def mapped(function, *trees) -> Params:
        return jax.tree_util.tree_map_with_path(function, *trees)

    # Embedding and head first: they are the largest, and nothing else is there yet.
    rest = ({k: v for k, v in tree.items() if k != STACKED} for tree in (params, model.shardings))
    found = mapped(whole, *rest)
    parts = mapped(layers, stacked, model.shardings[STACKED], model.abstract[STACKED])
    is_list = lambda x: isinstance(x, list)  # noqa: E731
    every = [jax.tree.map(lambda p, i=i: p[i], parts, is_leaf=is_list) for i in range(model.config.layers)]
    return found | {STACKED: every}


def abstract(model: ModelSpec) -> Params:
    """What `place` makes, as shapes that say where they lie."""

    def shape(params: Params, skip: int) -> Any:
        def one(path, leaf, sharding) -> jax.ShapeDtypeStruct:
            kind = _kind(path, params, leaf, model.config.compute_dtype)
            layout = NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[skip:]))
            return jax.ShapeDtypeStruct(leaf.shape[skip:], kind, sharding=layout)

        return one

    stacked, shardings = model.abstract[STACKED], dict(model.shardings)
    layer = jax.tree_util.tree_map_with_path(shape(stacked, 1), stacked, shardings.pop(STACKED))
    whole = {key: value for key, value in model.abstract.items() if key != STACKED}
    whole = jax.tree_util.tree_map_with_path(shape({}, 0), whole, shardings)
    return whole | {STACKED: [layer] * model.config.layers}


# The dim of a layer's leaf that has its key heads, and how often each is wanted; None: once.
Heads = tuple[int, int] | None


def _moved(leaf: Any, index: int | None, kind: Any, heads: Heads, sharding: NamedSharding) -> jax.Array:
    """The leaf, or one layer of it, in this dtype and layout."""
    if not isinstance(leaf, jax.Array):  # of the host
        part = leaf if index is None else leaf[index]
        part = part if heads is None else np.repeat(part, heads[1], axis=heads[0])
        return jax.device_put(part.astype(kind), sharding)
    source = leaf.sharding
    if index is None and leaf.dtype == kind and source.is_equivalent_to(sharding, leaf.ndim):
        return leaf
    if not isinstance(source, NamedSharding) or not isinstance(source.mesh, Mesh):
        return jax.device_put(to_host(_part(leaf, index, kind, heads)), sharding)
    with jax.set_mesh(source.mesh):  # another one may be around
        if _devices(source) != _devices(sharding):
            return jax.device_put(to_host(_part(leaf, index, kind, heads)), sharding)
        where = source if index is None else NamedSharding(source.mesh, PartitionSpec(*source.spec[1:]))
        return jax.block_until_ready(
            _laid_out(leaf, index, kind, heads, where, sharding)
        )  # one at a time is in flight


def _devices(sharding: NamedSharding) -> list[Any]:
    return np.asarray(sharding.mesh.devices).ravel().tolist()


def _kind(path: Any, params: Params, leaf: Any, dtype: Any) -> Any:
    """The dtype in which the engine holds a leaf."""
    names = [entry.key for entry in path]
    around: Any = params
    for name in names[:-1]:
        around = around.get(name, {})
    adapted = isinstance(around, dict) and (set(around) & {"adapter", *ADAPTER_LEAVES})
    return dtype if names[-1] in CAST and not ("moe" in names and adapted) else leaf.dtype


@functools.partial(jax.jit, static_argnums=(2, 3))
def _part(leaf: jax.Array, index: int | None, kind: Any, heads: Heads) -> jax.Array:
    part = leaf if index is None else jax.lax.dynamic_index_in_dim(leaf, index, keepdims=False)
    part = part if heads is None else jnp.repeat(part, heads[1], axis=heads[0])
    return part.astype(kind)


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5))
def _laid_out(
    leaf: jax.Array, index: int | None, kind: Any, heads: Heads, where: NamedSharding, to: NamedSharding
) -> jax.Array:
    """The part is cut out and cast where it lies, or all of the leaf would travel."""
    part = jax.lax.with_sharding_constraint(_part(leaf, index, kind, heads), where)
    return jax.lax.with_sharding_constraint(part, to)
