"""A Pallas TPU kernel for products of tokens with their experts' weights, as they lie or turned round.

Places are grouped by expert in whole tiles (layout.py), so a step multiplies one tile by one expert's weights, which
stay in fast memory while its tiles pass by. Several such products may be added up before anything is written.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from ..pallas import PLAIN, ROWS_BY_ROWS, product, shape_like, vmem_bytes
from .layout import Layout


def products(
    pairs: list[tuple[jax.Array, jax.Array]],
    layout: Layout,
    *,
    turned: bool = False,
    interpret: bool = False,
) -> jax.Array:
    """[P, N] in the operands' dtype: each row of x times its expert's weights, added up over pairs (x, weights).

    x: [P, K]; weights: [X, K, N], or [X, N, K] if turned. Sums are float32; rows of tiles not in use are not defined.
    """
    places, tiles = pairs[0][0].shape[0], layout.expert.shape[0]
    rows, dims = places // tiles, ROWS_BY_ROWS if turned else PLAIN
    inner = [x.shape[1] for x, _ in pairs]
    width = pairs[0][1].shape[1 if turned else 2]
    item = pairs[0][0].dtype.itemsize
    # Half for weights, of which there are two sets: the next step's are on their way.
    part = _part(width, vmem_bytes() // (2 * 2 * item * sum(inner)))

    def kernel(table, *refs) -> None:
        *refs, out_ref = refs

        @pl.when(pl.program_id(1) < tiles - table[tiles])
        def _() -> None:
            made = [product(x[...], w[0], dims) for x, w in zip(refs[::2], refs[1::2], strict=True)]
            out_ref[...] = sum(made[1:], made[0]).astype(out_ref.dtype)

    # The last tile in use is there already, and is not loaded again for those of padding.
    at = lambda t, table: jnp.clip(t, 0, jnp.maximum(tiles - table[tiles] - 1, 0))  # noqa: E731
    specs = []
    for size in inner:
        shape, place = ((1, part, size), lambda j: (j, 0)) if turned else ((1, size, part), lambda j: (0, j))
        specs += [
            pl.BlockSpec((rows, size), lambda j, t, table: (at(t, table), 0)),
            pl.BlockSpec(shape, lambda j, t, table, place=place: (table[at(t, table)], *place(j))),
        ]
    return pl.pallas_call(
        kernel,
        name="grouped_inner",
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(width // part, tiles),
            in_specs=specs,
            out_specs=pl.BlockSpec((rows, part), lambda j, t, table: (at(t, table), j)),
        ),
        out_shape=shape_like((places, width), pairs[0][0].dtype, pairs[0][0]),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel"), vmem_limit_bytes=vmem_bytes()
        ),
        cost_estimate=pl.CostEstimate(
            flops=2 * places * width * sum(inner),
            bytes_accessed=sum(x.size + w.size for x, w in pairs) * item,
            transcendentals=0,
        ),
        interpret=interpret,
    )(layout.table, *(operand for pair in pairs for operand in pair))


def _part(size: int, most: int) -> int:
    """The largest part of whole lanes that divides it, up to `most`; all of it where there is none."""
    parts = [n for n in range(128, min(most, size) + 1, 128) if size % n == 0]
    return parts[-1] if parts else size
