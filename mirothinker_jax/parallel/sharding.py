"""THE sharding table: logical axis → mesh axis, for parameters and activations alike."""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mirothinker_jax.parallel.mesh import BATCH_AXES, TOKEN_AXES

# Over which a parameter's hidden dim is split: whoever shares a row's tokens shares the parameters too.
SPLIT_AXES = ("fsdp", "context")
# Over which the same part of it meets other rows: all of them add to its gradient.
COPY_AXES = tuple(axis for axis in TOKEN_AXES if axis not in SPLIT_AXES)

HOST = "pinned_host"  # the kind of memory that is the host's

TABLE: dict[str, str | tuple[str, ...] | None] = {
    # activations
    "batch": BATCH_AXES,
    "length": "context",
    "hidden": None,
    # parameters (and the activations that come straight from them)
    "embed": SPLIT_AXES,
    "heads": "tensor",
    "kv_heads": "tensor",
    "head_dim": None,
    "ffn": "tensor",
    "experts": "expert",
    "vocab": "tensor",
    "layers": None,
}

Axes = tuple[str | None, ...]


def spec(*axes: str | None) -> PartitionSpec:
    """The PartitionSpec of an array whose dims carry these logical axes (None: not sharded)."""
    return PartitionSpec(*(None if a is None else TABLE[a] for a in axes))


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Pins an activation to the table's layout; a no-op outside a mesh."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, spec(*axes))


def shardings(mesh: Mesh, axes: Any) -> Any:
    """A tree of NamedSharding from a tree of logical axes (tuples at the leaves)."""
    return jax.tree.map(lambda a: NamedSharding(mesh, spec(*a)), axes, is_leaf=lambda a: isinstance(a, tuple))


def on_host(shardings: Any) -> Any:
    """The same shardings, of arrays that wait in the host's memory."""
    return jax.tree.map(lambda sharding: sharding.with_memory_kind(HOST), shardings)


def with_shardings(abstract: Any, shardings: Any) -> Any:
    """A tree of ShapeDtypeStruct that says where each array lies: what a checkpoint is restored into."""
    return jax.tree.map(
        lambda s, sharding: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), abstract, shardings
    )


def batch_sharding(mesh: Mesh, leading: int = 0) -> NamedSharding:
    """Of [B, T] arrays, with `leading` unsharded dims (micro-batches) before B."""
    return NamedSharding(mesh, spec(*(None,) * leading, "batch", "length"))


def replicated_sharding(mesh: Mesh) -> NamedSharding:
    """Of arrays that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())
