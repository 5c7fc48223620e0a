"""A Pallas TPU kernel for the gradients of experts' weights: for each expert Σ xᵀ g over the tokens that it had,
and g is zero at places without one.

Places are sorted by expert in whole tiles (layout.py), so a step takes one tile, and what it adds to stays in fast
memory while the tiles of one expert pass by.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from ..pallas import COLUMNS_BY_COLUMNS, product, shape_like, vmem_bytes
from .layout import Layout

BLOCK = 1024  # the largest part of a dimension that a step takes: two of them keep a v5p's two cores busy


def outer_sums(
    x: jax.Array, g: jax.Array, layout: Layout, experts: int, *, interpret: bool = False
) -> jax.Array:
    """[X, D, F] in x's dtype, summed in float32. x: [P, D], g: [P, F], in the order of the layout's places."""
    places, tiles = x.shape[0], layout.expert.shape[0]
    rows, wide, narrow = places // tiles, x.shape[1], g.shape[1]
    across, down = _block(wide), _block(narrow)

    def kernel(table, x_ref, g_ref, out_ref, sum_ref) -> None:
        tile = pl.program_id(2)
        here = table[tile]
        before, after = table[jnp.maximum(tile - 1, 0)], table[jnp.minimum(tile + 1, tiles - 1)]

        @pl.when((tile == 0) | (before != here))
        def _() -> None:
            sum_ref[...] = jnp.zeros_like(sum_ref)

        @pl.when(tile < tiles - table[tiles])
        def _() -> None:
            sum_ref[...] += product(x_ref[...], g_ref[...], COLUMNS_BY_COLUMNS)

        @pl.when((tile == tiles - 1) | (after != here))
        def _() -> None:
            out_ref[0] = sum_ref[...].astype(out_ref.dtype)

    # The last tile in use is there already, and is not loaded again for those of padding.
    at = lambda t, table: jnp.clip(t, 0, jnp.maximum(tiles - table[tiles] - 1, 0))  # noqa: E731
    return pl.pallas_call(
        kernel,
        name="grouped_outer",
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(wide // across, narrow // down, tiles),
            in_specs=[
                pl.BlockSpec((rows, across), lambda i, j, t, table: (at(t, table), i)),
                pl.BlockSpec((rows, down), lambda i, j, t, table: (at(t, table), j)),
            ],
            out_specs=pl.BlockSpec((1, across, down), lambda i, j, t, table: (table[t], i, j)),
            scratch_shapes=[pltpu.VMEM((across, down), jnp.float32)],
        ),
        out_shape=shape_like((experts, wide, narrow), x.dtype, x),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary"), vmem_limit_bytes=vmem_bytes()
        ),
        cost_estimate=pl.CostEstimate(
            flops=2 * places * wide * narrow,
            bytes_accessed=(x.size * (narrow // down) + g.size * (wide // across)) * x.dtype.itemsize,
            transcendentals=0,
        ),
        interpret=interpret,
    )(layout.table, x, g)


def _block(size: int) -> int:
    """The largest part of whole lanes that divides it, up to BLOCK; all of it where there is none."""
    parts = [n for n in range(128, BLOCK + 1, 128) if size % n == 0]
    return size if size <= BLOCK or not parts else parts[-1]
