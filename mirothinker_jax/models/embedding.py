"""The embedding's look-up on a mesh, by exchange of tokens for rows: no device holds the whole table or gradient."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from mirothinker_jax.parallel.sharding import COPY_AXES, SPLIT_AXES, spec


def look_up(table: jax.Array, tokens: jax.Array, dtype: Any) -> jax.Array:
    """[B, T, D] in dtype, the rows of the table [V, D] that int32 tokens [B, T] name (clipped to the table).

    The table's gradient adds up in the table's own dtype.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or all(mesh.shape[axis] == 1 for axis in (*SPLIT_AXES, "tensor")):
        return table.at[tokens].get(mode="clip").astype(dtype)

    def local(part, tokens) -> Any:
        """This device's part of every row that one of those that share rows asks for, and theirs in return."""
        wanted = jax.lax.all_gather(tokens, SPLIT_AXES)  # [n, b, t]
        index = jnp.clip(wanted, 0, table.shape[0] - 1) - jax.lax.axis_index("tensor") * part.shape[0]
        here = (index >= 0) & (index < part.shape[0])
        part = jax.lax.pcast(part, COPY_AXES, to="varying")  # the gradient is the sum over them
        rows = jnp.where(here[..., None], _rows(dtype, part, index), 0)
        parts = jax.lax.all_to_all(rows, SPLIT_AXES, split_axis=0, concat_axis=0, tiled=True)
        return jax.lax.psum(jnp.moveaxis(parts, 0, 2).reshape(*tokens.shape, -1), "tensor")

    exchange = jax.shard_map(
        local,
        in_specs=(spec("vocab", "embed"), spec("batch", "length")),
        out_specs=spec("batch", "length", None),
    )
    return exchange(table, tokens)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _rows(dtype: Any, part: jax.Array, index: jax.Array) -> jax.Array:
    """[n, …, D] in dtype, the rows of part [V, D] at int32 [n, …], or next to it where there is none.

    The part is cast, not the rows, which are as many as all the tokens of the devices that share the table.
    """
    return part.astype(dtype).at[index].get(mode="clip")


def _forward(dtype, part, index) -> tuple[Any, ...]:
    return _rows(dtype, part, index), (part, index)


def _backward(dtype, saved, gradient) -> tuple[Any, ...]:
    """Added up device by device. All at once, a TPU's compiler would begin with a sort of a million numbers: half a
    minute for it, where the rest of a layer takes some seconds."""
    part, index = saved

    def add(sums, device) -> tuple[Any, ...]:
        where, rows = device
        return sums.at[where].add(rows.astype(sums.dtype), mode="clip"), None

    return jax.lax.scan(add, jnp.zeros_like(part), (index, gradient))[0], None


_rows.defvjp(_forward, _backward)
