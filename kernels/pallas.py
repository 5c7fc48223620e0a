"""What our Pallas kernels share: products, results in a shard_map, and the fast memory they reserve on TPUs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas import tpu as pltpu

ROWS_BY_ROWS = (((1,), (1,)), ((), ()))  # a bᵀ
PLAIN = (((1,), (0,)), ((), ()))  # a b
COLUMNS_BY_COLUMNS = (((0,), (0,)), ((), ()))  # aᵀ b


def _tpu() -> Any:
    """Of the TPU that is compiled for; None: it is none, and the kernel traced for its own sake, or interpreted."""
    try:
        return pltpu.get_tpu_info()
    except ValueError:
        return None


def wide_units() -> bool:
    """Whether what is compiled for is a TPU whose matrix units are 256 wide (v6e, tpu7x), not 128."""
    return (tpu := _tpu()) is not None and tpu.mxu_column_size == 256


def little_memory() -> bool:
    """Whether what is compiled for is a TPU with 16 MiB of fast memory for a core (v4), not 64 or 128."""
    return (tpu := _tpu()) is not None and tpu.vmem_capacity_bytes <= 16 << 20


def vmem_bytes() -> int:
    """The fast memory that a kernel reserves: with more the compiler has no room for the arrays that it wants to keep
    there. A v4 has 16 MiB in all."""
    return (15 if little_memory() else 32) << 20


def product(a: Any, b: Any, dimensions: Any) -> jax.Array:
    """In float32; of float32 operands exactly so, where matrix units and tensor cores would round them."""
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return jax.lax.dot_general(a, b, dimensions, precision=precision, preferred_element_type=jnp.float32)


def shape_like(shape: Any, dtype: Any, like: jax.Array) -> jax.ShapeDtypeStruct:
    """A result that varies over the mesh axes that `like` varies over (inside a shard_map)."""
    return jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=jax.typeof(like).manual_axis_type)


def in_hbm(arrays: Sequence[jax.Array], interpret: bool) -> list[jax.Array]:
    """Operands of a TPU kernel that streams them itself. Left to choose, the compiler brings some into fast memory
    before, one here and another there: they are read twice, and the kernel is compiled anew for each such choice."""
    return [x if interpret else pltpu.with_memory_space_constraint(x, pltpu.HBM) for x in arrays]
