"""Tokens to their places (layout.py) and back, by gathers alone.

The two are each other's transpose (but for places without a token), and `place` and `source` each other's inverse, so
neither needs a scatter for its gradient, which a TPU would do row by row.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from .layout import Layout


@jax.custom_vjp
def to_places(x: jax.Array, layout: Layout) -> jax.Array:
    """[N, D] → [P, D]: the token at each place; where there is none, the last one, since zeros would take one more pass
    over all rows. What comes back for it (from_places' gradient) is zero, so it adds nothing to weights' gradients."""
    return x.at[_token(layout)].get(mode="clip")


def _to_forward(x, layout) -> tuple[Any, ...]:
    return to_places(x, layout), layout


def _to_backward(layout, d_rows) -> tuple[Any, ...]:
    chosen = _rows(d_rows, layout.place)
    return chosen.astype(jnp.float32).sum(1).astype(d_rows.dtype), None


to_places.defvjp(_to_forward, _to_backward)


@jax.custom_vjp
def from_places(y: jax.Array, weights: jax.Array, layout: Layout) -> jax.Array:
    """[P, D], float32 [N, k] → [N, D] in y's dtype: the weighted sum of what a token's choices have at their places."""
    return jnp.einsum("nkd,nk->nd", _rows(y, layout.place), weights.astype(y.dtype))


def _from_forward(y, weights, layout) -> tuple[Any, ...]:
    return from_places(y, weights, layout), (y, weights, layout)


def _from_backward(saved, d_out) -> tuple[Any, ...]:
    y, weights, layout = saved
    back = _rows(d_out, _token(layout))
    of_place = _rows(weights.reshape(-1), layout.source)
    d_weights = (back.astype(jnp.float32) * y.astype(jnp.float32)).sum(-1)
    return (
        (back * of_place[:, None]).astype(y.dtype),
        _rows(d_weights, layout.place).astype(weights.dtype),
        None,
    )


from_places.defvjp(_from_forward, _from_backward)


def _token(layout: Layout) -> jax.Array:
    """int32 [P], the token of each place; N where there is none."""
    return layout.source // layout.place.shape[1]


def _rows(x: jax.Array, index: jax.Array) -> jax.Array:
    """x[index], zeros where that is beyond its end."""
    return x.at[index].get(mode="fill", fill_value=0)
