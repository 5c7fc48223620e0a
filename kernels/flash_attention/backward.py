"""The backward kernel for TPUs: dq, dk and dv in one pass of five products, in the forward kernel's layout.

The probabilities are recomputed from the log-sum-exp (FlashAttention-2, arXiv 2307.08691, §3.2). A key/value head's
gradients stay in fast memory while all queries of its group pass by; the heads go to the chip's cores in parallel, so
both of a v5p's work on one sequence. That bounds the keys of one call: `flash_attention` calls it per segment, and dq
is added up from one to the next in float32.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from . import mask as m
from .forward import LOG2_E, PLAIN, ROWS_BY_ROWS, product, row_of, shaped, table_row
from .strips import Blocks, Place, for_strips, visible


def backward(
    q: jax.Array,
    do: jax.Array,
    lse: jax.Array,
    delta: jax.Array,
    k: jax.Array,
    kt: jax.Array,
    v: jax.Array,
    dq: jax.Array,
    made: tuple[jax.Array, jax.Array] | None,
    segment: Any,
    mask: m.Mask,
    blocks: Blocks,
    *,
    interpret: bool = False,
    vmem_bytes: int | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(dq, dk, dv) with what one segment of the keys gives: added to dq, written into its places of dk and dv.

    Args:
      q, do: [B·H, T, E]. lse, delta: float32 [B·H, 1, T]; delta is Σ o·do − dlse. k, v: [B·K, S, E], kt: [B·K, E, S].
      dq: float32 [B·H, T, E]. made: dk and dv, float32 [B·K, S, E], of other segments; None: of none yet, and what is
        not of this segment comes out as it happens to be. Their memory is used.
      segment: int32, which stretch of blocks.segment keys; 0 where the mask is not by spans.
      mask: its key_start is the place of the segment's first key.
    """
    heads, length, size = q.shape
    kv_heads, keys = k.shape[0], blocks.segment
    group, per_head = heads // kv_heads, length // blocks.queries
    kind, spans = mask.kind, mask.kind == "spans"
    scale = size**-0.5
    scale2 = scale * LOG2_E

    def kernel(*refs):
        table, refs = (refs[0], refs[1:]) if spans else (None, refs)
        q_ref, do_ref, lse_ref, delta_ref, k_ref, kt_ref, v_ref, before_ref, *refs = refs
        refs = refs[2:] if made else refs
        rows_ref, refs = (refs[0], refs[1:]) if spans else (None, refs)
        dq_ref, dk_ref, dv_ref, dq_sum, next_scores, next_dp = refs
        step = pl.program_id(1)
        block = jax.lax.rem(step, per_head)
        head = pl.program_id(0) * group + jax.lax.div(step, per_head)
        column = row_of(table, kind, table_row(head, block, heads, mask, per_head))
        place = Place(kind, blocks, block, 0 if spans else None, column)
        queries, d_out = q_ref[0], do_ref[0]
        lse2, taken = lse_ref[0] * LOG2_E, delta_ref[0]

        @pl.when(step == 0)
        def _():
            dk_ref[...] = jnp.zeros_like(dk_ref)
            dv_ref[...] = jnp.zeros_like(dv_ref)

        dq_sum[...] = jnp.zeros_like(dq_sum)

        def score(strip, number):
            at, tile = blocks.keys_of(strip), blocks.tile_of(number)
            keys_, values = k_ref.at[0, at][tile], v_ref.at[0, at][tile]
            return product(keys_, queries, ROWS_BY_ROWS), product(values, d_out, ROWS_BY_ROWS)

        def begin(strip):
            next_scores[...], next_dp[...] = score(strip, 0)

        def run(strip, after, masked):
            scores, dp, acc = next_scores[...], next_dp[...], dq_sum[...]
            at = blocks.keys_of(strip)
            dk_strip, dv_strip, kt_strip = dk_ref.at[0, at], dv_ref.at[0, at], kt_ref.at[0, :, at]
            for number in range(blocks.tiles):
                tile = blocks.tile_of(number)
                following = score(strip, number + 1) if number + 1 < blocks.tiles else score(after, 0)
                weights = jnp.exp2(scores * scale2 - lse2)
                if masked:
                    start = strip * blocks.strip + number * blocks.tile
                    weights = jnp.where(visible(place, start, rows_ref), weights, 0.0)
                ds = (weights * (dp - taken)).astype(queries.dtype)
                dv_strip[tile] += product(weights.astype(d_out.dtype), d_out, PLAIN)
                dk_strip[tile] += product(ds, queries, PLAIN)
                acc = acc + product(kt_strip[:, tile], ds, PLAIN)
                scores, dp = following
            next_scores[...], next_dp[...], dq_sum[...] = scores, dp, acc

        for_strips(place, run, begin)
        dq_ref[0] = before_ref[0] + dq_sum[...].T * scale

        @pl.when(step == group * per_head - 1)
        def _():
            def rescale(strip, _):
                dk_ref[0, blocks.keys_of(strip)] *= scale

            jax.lax.fori_loop(0, blocks.strips, rescale, None)

    def queries_of(h, i):
        return h * group + jax.lax.div(i, per_head), jax.lax.rem(i, per_head)

    rows = pl.BlockSpec((1, blocks.queries, size), lambda h, i, *_: (*queries_of(h, i), 0))
    lanes = pl.BlockSpec(
        (1, 1, blocks.queries), lambda h, i, *_: (queries_of(h, i)[0], 0, queries_of(h, i)[1])
    )
    entries = (mask.rows.shape[0] * per_head * 8) if spans else 0
    part = lambda *table: table[0][entries] if table else 0  # noqa: E731
    written = pl.BlockSpec((1, keys, size), lambda h, i, *t: (h, part(*t), 0))
    of_head = pl.BlockSpec((1, keys, size), lambda h, i, *t: (h, part(*t), 0))
    # One buffer: it changes once per key/value head, and a second would be more than fast memory holds.
    turned = pl.BlockSpec((1, size, keys), lambda h, i, *t: (h, 0, part(*t)), pipeline_mode=pl.Buffered(1))
    inputs, prefetch = [q, do, lse, delta, k, kt, v, dq, *(made or ())], []
    in_specs = [rows, rows, lanes, lanes, of_head, turned, of_head, rows]
    in_specs += [pl.BlockSpec(memory_space=pl.ANY)] * len(made or ())
    kept = len(inputs) - 7
    if spans:
        # The last number of the table is not of a block: it is the segment.
        table = m.strip_table(mask, keys, blocks.queries, blocks.strip)
        prefetch = [jnp.append(table, jnp.asarray(segment, jnp.int32))]
        batch = mask.rows.shape[0]
        per_row = heads // batch
        of_row = lambda h, i, *_: (queries_of(h, i)[0] // per_row, 0, queries_of(h, i)[1])  # noqa: E731
        in_specs.append(pl.BlockSpec((1, 4, blocks.queries), of_row))
        inputs.append(mask.rows - mask.key_start)
    tall = (blocks.tile, blocks.queries)
    return pl.pallas_call(
        kernel,
        name="flash_backward",
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(prefetch),
            grid=(kv_heads, group * per_head),
            in_specs=in_specs,
            out_specs=[rows, written, written],
            scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in ((size, blocks.queries), tall, tall)],
        ),
        out_shape=[
            shaped(q.shape, jnp.float32, q),
            shaped(k.shape, jnp.float32, q),
            shaped(v.shape, jnp.float32, q),
        ],
        input_output_aliases={len(prefetch) + 7 + i: i for i in range(kept)},
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=vmem_bytes
        ),
        cost_estimate=pl.CostEstimate(
            flops=10 * heads * length * keys * size // (1 if kind == "full" else 2),
            bytes_accessed=(2 * q.size + 3 * kv_heads * keys * size) * q.dtype.itemsize + 8 * q.size,
            transcendentals=heads * length * keys // (1 if kind == "full" else 2),
        ),
        interpret=interpret,
    )(*prefetch, *inputs)
