"""Float32 results as parameters of fewer bits: rounded to one of the two neighbours, so that the mean is right.

An update of bfloat16 parameters is mostly smaller than half the distance to the next number; rounded to the nearest, it
would be lost each time (arXiv 2010.06192).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def to_float32(params: Any) -> Any:
    """The same numbers in float32."""
    return jax.tree.map(lambda x: x.astype(jnp.float32), params)


def round_stochastically(updated: Any, like: Any, key: jax.Array) -> Any:
    """`updated`, float32 and finite, in the dtypes of `like`: bfloat16 stochastically, float32 as it is.

    Each leaf has its own key, and each number its own noise, whatever devices hold it.
    """
    leaves, structure = jax.tree.flatten(updated)
    keys = jax.random.split(key, len(leaves))
    dtypes = [x.dtype for x in jax.tree.leaves(like)]
    return structure.unflatten(_rounded(*each) for each in zip(leaves, dtypes, keys, strict=True))


def _rounded(x: jax.Array, dtype: Any, key: jax.Array) -> jax.Array:
    if dtype != jnp.bfloat16:
        return x.astype(dtype)
    # A bfloat16 is the upper half of a float32. What is added below carries as often as the lower half is large.
    noise = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
    bits = (jax.lax.bitcast_convert_type(x, jnp.uint32) + noise) & jnp.uint32(0xFFFF0000)
    return jax.lax.bitcast_convert_type(bits, jnp.float32).astype(dtype)
