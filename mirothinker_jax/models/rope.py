"""Rotary position embedding (RoFormer, arXiv 2104.09864), in the half-split layout that Qwen uses."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def rotation(positions: jax.Array, head_dim: int, theta: float) -> tuple[jax.Array, jax.Array]:
    """cos and sin, float32 [B, T, 1, E/2], of int32 positions [B, T]."""
    frequencies = theta ** -(np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    angles = positions[..., None, None].astype(jnp.float32) * frequencies.astype(np.float32)[None, None, None]
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """x [B, T, heads, E], turned by the position's angles, in float32; returned in x's dtype."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1).astype(x.dtype)
