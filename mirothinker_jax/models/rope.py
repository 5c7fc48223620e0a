"""Rotary position embedding (RoFormer, arXiv 2104.09864) in the half-split layout that Qwen uses, and YaRN."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from mirothinker_jax.config import YarnConfig


def frequencies(head_dim: int, theta: float, yarn: YarnConfig) -> np.ndarray:
    """Radians per position of each pair of dims, float64 [E/2], the fastest first.

    YaRN (arXiv 2309.00071, §3.2) divides by the factor those that turn less than beta_slow times within the native
    context, leaves those that turn more than beta_fast times, and blends linearly, by dim, in between.
    """
    plain = theta ** -(np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    if yarn.factor == 1:
        return plain

    def dim_of(turns: float) -> float:
        """The dim that turns this often within the native context."""
        return head_dim * math.log(yarn.native_tokens / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low = max(math.floor(dim_of(yarn.beta_fast)), 0)
    high = min(math.ceil(dim_of(yarn.beta_slow)), head_dim - 1)
    stretched = np.clip((np.arange(head_dim // 2) - low) / max(high - low, 1e-3), 0.0, 1.0)
    return plain * (1 - stretched) + plain / yarn.factor * stretched


def rotation(
    positions: jax.Array, head_dim: int, theta: float, yarn: YarnConfig
) -> tuple[jax.Array, jax.Array]:
    """cos and sin, float32 [B, T, 1, E/2], of int32 positions [B, T], with YaRN's scale of queries and keys."""
    table = frequencies(head_dim, theta, yarn).astype(np.float32)
    angles = positions[..., None, None].astype(jnp.float32) * table[None, None, None]
    return jnp.cos(angles) * yarn.scale, jnp.sin(angles) * yarn.scale


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """x [B, T, heads, E], turned by the position's angles, in float32; returned in x's dtype."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1).astype(x.dtype)
