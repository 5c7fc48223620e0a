"""Parameters on their way from the trainer to the engine: other devices, layout and dtype, leaf by leaf.

The trainer stacks a block's parameters over the layers, because it scans them. Sampling unrolls the layers, and a
slice of a stacked array would be copied at every token, so here each layer has arrays of its own.

One leaf at a time is whole on the host, and none where there is one process. What the model computes in float32
(norms' weights) stays as it is. What is cast here is what the model would cast at every use, so nothing changes but
memory. A leaf that lies right as it is may be the very array of the trainer's: whoever donates that ends the sampling.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
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
    stacked, shardings = params[STACKED], model.shardings[STACKED]
    dtype = model.config.compute_dtype
    whole = {key: value for key, value in params.items() if key != STACKED}

    def cast(path, leaf, sharding) -> jax.Array:
        kind = _kind(path, {}, leaf, dtype)
        moved = _moved(leaf, kind, sharding)
        with jax.set_mesh(model.mesh):  # the trainer's mesh may be around, and of more processes
            return _cast(moved, kind)

    whole = jax.tree_util.tree_map_with_path(
        cast, whole, {key: value for key, value in model.shardings.items() if key != STACKED}
    )

    def layers(path, leaf, sharding) -> list[jax.Array]:
        kind = _kind(path, stacked, leaf, dtype)
        moved = _moved(leaf, kind, sharding)
        one = NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[1:]))
        with jax.set_mesh(model.mesh):
            return _unstack(moved, kind, one)

    parts = jax.tree_util.tree_map_with_path(layers, stacked, shardings)
    count = model.config.layers
    is_list = lambda x: isinstance(x, list)  # noqa: E731
    return whole | {
        STACKED: [jax.tree.map(lambda p, i=i: p[i], parts, is_leaf=is_list) for i in range(count)]
    }


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


def _moved(leaf: Any, kind: Any, sharding: NamedSharding) -> jax.Array:
    """Cast where it lies, if that is on devices: then less has to move, and to find room."""
    layout = leaf.sharding if isinstance(leaf, jax.Array) else None
    if leaf.dtype != kind and isinstance(layout, NamedSharding) and isinstance(layout.mesh, Mesh):
        with jax.set_mesh(layout.mesh):
            leaf = _cast(leaf, kind)
    return jax.device_put(to_host(leaf), sharding)


def _kind(path: Any, params: Params, leaf: Any, dtype: Any) -> Any:
    """The dtype in which the engine holds a leaf."""
    names = [entry.key for entry in path]
    around: Any = params
    for name in names[:-1]:
        around = around.get(name, {})
    adapted = isinstance(around, dict) and (set(around) & {"adapter", *ADAPTER_LEAVES})
    return dtype if names[-1] in CAST and not ("moe" in names and adapted) else leaf.dtype


@functools.partial(jax.jit, static_argnums=1)
def _cast(leaf: jax.Array, kind: Any) -> jax.Array:
    return leaf.astype(kind)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _unstack(leaf: jax.Array, kind: Any, sharding: NamedSharding) -> list[jax.Array]:
    """Every layer's part, on its own."""
    return [jax.lax.with_sharding_constraint(leaf[i].astype(kind), sharding) for i in range(leaf.shape[0])]
