"""What our Pallas kernels share: products, results in a shard_map, and the fast memory they reserve on TPUs."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

# A kernel that reserves more leaves the compiler no room for the arrays that it wants to keep in fast memory.
VMEM_BYTES = 32 << 20
ROWS_BY_ROWS = (((1,), (1,)), ((), ()))  # a bᵀ
PLAIN = (((1,), (0,)), ((), ()))  # a b
COLUMNS_BY_COLUMNS = (((0,), (0,)), ((), ()))  # aᵀ b


def product(a: Any, b: Any, dimensions: Any) -> jax.Array:
    """In float32; of float32 operands exactly so, where matrix units and tensor cores would round them."""
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return jax.lax.dot_general(a, b, dimensions, precision=precision, preferred_element_type=jnp.float32)


def shaped(shape: Any, dtype: Any, like: jax.Array) -> jax.ShapeDtypeStruct:
    """A result that varies over the mesh axes that `like` varies over (inside a shard_map)."""
    return jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=jax.typeof(like).manual_axis_type)
