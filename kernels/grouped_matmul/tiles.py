"""Routed SwiGLU blocks, one tile of one expert's tokens at a time: any backend, memory linear in tokens.

XLA turns `ragged_dot` into a masked product with every expert where it has no grouped product of its own (CPU): X
times the work. Here a loop, whose trip count is the tiles in use, takes a tile's tokens, its expert's three
matrices by index, and adds the result to the tokens' rows. Neither the sorted tokens nor their inner activations
ever exist as a whole; the backward pass makes them again, tile by tile.

Left out: overlapping a tile's loads with the product before it (a TPU has kernels for that, tpu.py).
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from .layout import Layout

_product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


@jax.custom_vjp
def tiled(x, weights, gate, up, down, layout: Layout) -> jax.Array:
    """[N, D] in x's dtype; see reference.dense_masked. weights: float32 [N, k], of the choices that `layout` placed.

    The kernels are in x's dtype; products accumulate in float32.
    """
    return _forward(x, weights, gate, up, down, layout)[0]


def _tile(layout: Layout, weights, i) -> tuple[Any, ...]:
    """Expert, token and weight of each place of tile i; token N (out of range), weight 0 at padding."""
    size = layout.source.shape[0] // layout.expert.shape[0]
    source = jax.lax.dynamic_slice_in_dim(layout.source, i * size, size)
    weight = weights.reshape(-1).at[source].get(mode="fill", fill_value=0)
    return layout.expert[i], source // weights.shape[1], source, weight


def _inner(x, gate, up) -> tuple[Any, ...]:
    """A tile's pre-activations, float32 [m, F] each."""
    return _product("md,df->mf", x, gate), _product("md,df->mf", x, up)


def _rows(x, token) -> jax.Array:
    return x.at[token].get(mode="fill", fill_value=0)


def _forward(x, weights, gate, up, down, layout) -> tuple[Any, ...]:
    def body(i, out) -> Any:
        expert, token, _, weight = _tile(layout, weights, i)
        gated, plain = _inner(_rows(x, token), gate[expert], up[expert])
        hidden = (jax.nn.silu(gated) * plain).astype(x.dtype)
        y = _product("mf,fd->md", hidden, down[expert])
        return out.at[token].add(y * weight[:, None], mode="drop")

    out = jax.lax.fori_loop(0, layout.tiles, body, _zeros_like(x, jnp.float32))
    return out.astype(x.dtype), (x, weights, gate, up, down, layout)


def _backward(saved, d_out) -> tuple[Any, ...]:
    x, weights, gate, up, down, layout = saved

    def body(i, carry) -> tuple[Any, ...]:
        dx, dw, d_gate, d_up, d_down = carry
        expert, token, source, weight = _tile(layout, weights, i)
        rows, d_rows = _rows(x, token), _rows(d_out, token)
        gated, plain = _inner(rows, gate[expert], up[expert])
        sigmoid = jax.nn.sigmoid(gated)
        silu = gated * sigmoid
        hidden = silu * plain
        d_hidden = _product("md,fd->mf", d_rows, down[expert])
        dw = dw.at[source].set((hidden * d_hidden).sum(-1), mode="drop")
        scaled = (d_rows * weight[:, None]).astype(x.dtype)
        d_down = d_down.at[expert].add(_product("mf,md->fd", hidden.astype(x.dtype), scaled))
        d_hidden = d_hidden * weight[:, None]
        d_plain = (d_hidden * silu).astype(x.dtype)
        d_gated = (d_hidden * plain * (sigmoid + silu * (1 - sigmoid))).astype(x.dtype)
        d_gate = d_gate.at[expert].add(_product("md,mf->df", rows, d_gated))
        d_up = d_up.at[expert].add(_product("md,mf->df", rows, d_plain))
        back = _product("mf,df->md", d_gated, gate[expert]) + _product("mf,df->md", d_plain, up[expert])
        return dx.at[token].add(back, mode="drop"), dw, d_gate, d_up, d_down

    flat = _zeros_like(weights.reshape(-1), jnp.float32)
    start = (_zeros_like(x, jnp.float32), flat, *(_zeros_like(k, jnp.float32) for k in (gate, up, down)))
    dx, dw, d_gate, d_up, d_down = jax.lax.fori_loop(0, layout.tiles, body, start)
    return (
        dx.astype(x.dtype),
        dw.reshape(weights.shape).astype(weights.dtype),
        d_gate.astype(gate.dtype),
        d_up.astype(up.dtype),
        d_down.astype(down.dtype),
        None,
    )


def _zeros_like(x, dtype) -> jax.Array:
    """Zeros that vary over the same mesh axes as x, which a loop's carry must do from the start."""
    return (x * 0).astype(dtype)


tiled.defvjp(_forward, _backward)
