"""Routed SwiGLU blocks by `jax.lax.ragged_dot`, which a TPU does as one grouped product of its own.

Not so the weights' gradients: of a ragged dimension that is summed over, XLA makes a masked product of all tokens with
every expert, 128 times the work for 128 experts. That is outer.py's.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from .layout import Layout
from .outer import outer_sums


def ragged(x, weights, gate, up, down, layout: Layout, *, interpret: bool = False):
    """As tiles.tiled; holds the sorted tokens [P, D] and their inner activations [P, F].

    interpret: run the weights' gradients on any backend, slowly, for tests.
    """
    token = layout.source // weights.shape[1]
    rows = x.at[token].get(mode="fill", fill_value=0)
    product = functools.partial(_product, interpret)
    hidden = (jax.nn.silu(product(rows, gate, layout)) * product(rows, up, layout)).astype(x.dtype)
    y = product(hidden, down, layout).astype(x.dtype)
    chosen = y.at[layout.place].get(mode="fill", fill_value=0)  # [N, k, D]
    return jnp.einsum("nkd,nk->nd", chosen, weights.astype(x.dtype))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(interpret, rows, kernel, layout):
    """float32 [P, N]: each row [K] times its expert's kernel, of [X, K, N]."""
    return jax.lax.ragged_dot(rows, kernel, layout.sizes, preferred_element_type=jnp.float32)


def _product_forward(interpret, rows, kernel, layout):
    return _product(interpret, rows, kernel, layout), (rows, kernel, layout)


def _product_backward(interpret, saved, d_out):
    rows, kernel, layout = saved
    d_out = d_out.astype(rows.dtype)  # as every other product's operands
    turned = kernel.swapaxes(1, 2)
    d_rows = jax.lax.ragged_dot(d_out, turned, layout.sizes, preferred_element_type=jnp.float32)
    d_kernel = outer_sums(rows, d_out, layout, interpret=interpret)
    return d_rows.astype(rows.dtype), d_kernel.astype(kernel.dtype), None


_product.defvjp(_product_forward, _product_backward)
