"""Routed SwiGLU blocks by `jax.lax.ragged_dot`, which a TPU does as one grouped product. Differentiated by jax."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from .layout import Layout


def ragged(x, weights, gate, up, down, layout: Layout):
    """As tiles.tiled; holds the sorted tokens [P, D] and their inner activations [P, F]."""
    token = layout.source // weights.shape[1]
    rows = x.at[token].get(mode="fill", fill_value=0)

    def product(rows, kernel):
        return jax.lax.ragged_dot(rows, kernel, layout.sizes, preferred_element_type=jnp.float32)

    hidden = (jax.nn.silu(product(rows, gate)) * product(rows, up)).astype(x.dtype)
    y = product(hidden, down).astype(x.dtype)
    chosen = y.at[layout.place].get(mode="fill", fill_value=0)  # [N, k, D]
    return jnp.einsum("nkd,nk->nd", chosen, weights.astype(x.dtype))
