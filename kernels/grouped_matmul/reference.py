"""What the routed feed-forward blocks must compute, in plain float32 jnp: every expert on every token, masked."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def dense_masked(x, chosen, weights, gate, up, down) -> jax.Array:
    """Σ_j weights[:, j] · down(silu(gate(x)) · up(x)) of expert chosen[:, j]; experts out of range give nothing.

    Args:
      x: [N, D]; chosen: int32 [N, k]; weights: [N, k]; gate, up: [X, D, F]; down: [X, F, D].
    """
    hidden = jax.nn.silu(jnp.einsum("nd,xdf->nxf", x, gate)) * jnp.einsum("nd,xdf->nxf", x, up)
    every = jnp.einsum("nxf,xfd->nxd", hidden, down)
    hit = chosen[..., None] == jnp.arange(gate.shape[0], dtype=chosen.dtype)[None, None]
    return jnp.einsum("nxd,nkx,nk->nd", every, hit.astype(x.dtype), weights)
