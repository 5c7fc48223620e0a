"""Routed SwiGLU blocks for TPUs: all tokens are brought to their experts' places, and kernels multiply tile by tile.

`jax.lax.ragged_dot` would be one grouped product there too, but gives float32, wants its weights copied for the
backward pass, and for their gradients multiplies all tokens by every expert, masked: 128 times the work for 128.
"""

from __future__ import annotations

import functools
from typing import Any

import jax

from ..pallas import wide_units
from .inner import products
from .layout import Layout
from .outer import outer_sums
from .places import from_places, to_places

LANES = 128


def largest_tile() -> int:
    """Tokens of one expert that fill the matrix units of the chip that is compiled for; 128 where that is no TPU."""
    return 256 if wide_units() else 128


def grouped(x, weights, gate, up, down, layout: Layout, *, interpret: bool = False) -> jax.Array:
    """As tiles.tiled; holds the sorted tokens [P, D] and their inner activations [P, F].

    interpret: run the kernels on any backend, slowly, for tests.
    """
    y = _swiglu(interpret, to_places(x, layout), gate, up, down, layout)
    return from_places(y, weights, layout)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _swiglu(interpret, rows, gate, up, down, layout) -> jax.Array:
    """[P, D] of rows [P, D], each by its expert's weights."""
    return _forward(interpret, rows, gate, up, down, layout)[0]


def _act(gated, plain) -> jax.Array:
    return jax.nn.silu(gated) * plain


def _forward(interpret, rows, gate, up, down, layout) -> tuple[Any, ...]:
    run = functools.partial(products, layout=layout, interpret=interpret)
    if gate.shape[2] % LANES:
        # A TPU's compiler lays such arguments out the other way round, for whole lanes. Turned they are read as they
        # lie; else the sampler's steps would copy all experts of all layers first.
        gated, plain = (run([(rows, w.swapaxes(1, 2))], turned=True) for w in (gate, up))
    else:
        gated, plain = run([(rows, gate)]), run([(rows, up)])
    return run([(_act(gated, plain), down)]), (rows, gated, plain, gate, up, down, layout)


def _backward(interpret, saved, d_out) -> tuple[Any, ...]:
    rows, gated, plain, gate, up, down, layout = saved
    turned = functools.partial(products, layout=layout, turned=True, interpret=interpret)
    sums = functools.partial(outer_sums, layout=layout, experts=gate.shape[0], interpret=interpret)
    hidden, act_backward = jax.vjp(_act, gated, plain)
    d_gated, d_plain = act_backward(turned([(d_out, down)]))
    d_rows = turned([(d_gated, gate), (d_plain, up)])
    return d_rows, sums(rows, d_gated), sums(rows, d_plain), sums(hidden, d_out), None


_swiglu.defvjp(_forward, _backward)
