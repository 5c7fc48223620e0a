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

from ..pallas import PLAIN, ROWS_BY_ROWS, in_hbm, product, shape_like
from . import mask as m
from .forward import LOG2_E, table_row
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
    made: tuple[jax.Array, jax.Array],
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
      dq: float32 [B·H, T, E]. made: dk and dv, float32 [B·K, S, E], of other segments, which stay as they are; before
        the first they may be anything. Their memory is used.
      segment: int32, which stretch of blocks.segment keys; 0 where the mask is not by spans.
      mask: its key_start is the place of the segment's first key.
    """
    heads, length, size = q.shape
    kv_heads, keys = k.shape[0], blocks.segment
    group, per_head = heads // kv_heads, length // blocks.queries
    kind, spans = mask.kind, mask.kind == "spans"
    scale = size**-0.5
    scale2 = scale * LOG2_E

    def kernel(*refs) -> None:
        table, refs = (refs[0], refs[1:]) if spans else (None, refs)
        q_ref, do_ref, lse_ref, delta_ref, k_ref, kt_ref, v_ref, before_ref, _, _, *refs = refs
        rows_ref, refs = (refs[0], refs[1:]) if spans else (None, refs)
        dq_ref, dk_ref, dv_ref, dq_sum, next_scores, next_dp = refs
        member, block = pl.program_id(1), pl.program_id(2)
        head = pl.program_id(0) * group + member
        row = table_row(head, block, heads, mask, per_head)
        column = m.reader(table, row, blocks.strips) if spans else None
        place = Place(kind, blocks, block, 0 if spans else None, column)

        @pl.when((member == 0) & (block == 0))
        def _() -> None:
            dk_ref[...] = jnp.zeros_like(dk_ref)
            dv_ref[...] = jnp.zeros_like(dv_ref)

        dq_sum[...] = jnp.zeros_like(dq_sum)

        def score(at, number) -> tuple[Any, ...]:
            keys_, queries = blocks.piece(number)
            scores = product(k_ref.at[0, at][keys_], q_ref[0, queries], ROWS_BY_ROWS)
            return scores, product(v_ref.at[0, at][keys_], do_ref[0, queries], ROWS_BY_ROWS)

        def begin(strip) -> None:
            for number in range(blocks.ahead):
                next_scores[number], next_dp[number] = score(blocks.keys_of(strip), number)

        def run(strip, strips, after, masked) -> None:
            pieces, at, then = blocks.pieces(strips), blocks.keys_of(strip, strips), blocks.keys_of(after)
            dk_strips, dv_strips, kt_strips = dk_ref.at[0, at], dv_ref.at[0, at], kt_ref.at[0, :, at]
            sums = [dq_sum[:, blocks.queries_of(chunk)] for chunk in range(blocks.chunks)]
            ready = [(next_scores[number], next_dp[number]) for number in range(blocks.ahead)]
            dk, dv = 0.0, 0.0  # of the tile
            for number in range(pieces):
                coming = number + blocks.ahead
                ready.append(score(at, coming) if coming < pieces else score(then, coming - pieces))
                (scores, dp), (keys_, queries) = ready.pop(0), blocks.piece(number)
                chunk = number % blocks.chunks
                weights = jnp.exp2(scores * scale2 - lse_ref[0, :, queries] * LOG2_E)
                if masked:
                    start = strip * blocks.strip + keys_.start
                    weights = jnp.where(visible(place, start, queries, rows_ref), weights, 0.0)
                ds = (weights * (dp - delta_ref[0, :, queries])).astype(q_ref.dtype)
                dv += product(weights.astype(do_ref.dtype), do_ref[0, queries], PLAIN)
                dk += product(ds, q_ref[0, queries], PLAIN)
                sums[chunk] += product(kt_strips[:, keys_], ds, PLAIN)
                if chunk == blocks.chunks - 1:
                    dv_strips[keys_] += dv
                    dk_strips[keys_] += dk
                    dk, dv = 0.0, 0.0
            for number in range(blocks.ahead):
                next_scores[number], next_dp[number] = ready[number]
            for chunk in range(blocks.chunks):
                dq_sum[:, blocks.queries_of(chunk)] = sums[chunk]

        for_strips(place, run, begin)
        dq_ref[0] = before_ref[0] + dq_sum[...].T * scale

        @pl.when((member == group - 1) & (block == per_head - 1))
        def _() -> None:
            dk_ref[...] *= scale

    rows = pl.BlockSpec((1, blocks.queries, size), lambda h, g, i, *_: (h * group + g, i, 0))
    lanes = pl.BlockSpec((1, 1, blocks.queries), lambda h, g, i, *_: (h * group + g, 0, i))
    entries = (mask.rows.shape[0] * per_head * 8) if spans else 0
    part = lambda *table: table[0][entries] if table else 0  # noqa: E731
    written = pl.BlockSpec((1, keys, size), lambda h, g, i, *t: (h, part(*t), 0))
    of_head = pl.BlockSpec((1, keys, size), lambda h, g, i, *t: (h, part(*t), 0))
    # One buffer: it changes once per key/value head, and a second would be more than fast memory holds.
    turned = pl.BlockSpec((1, size, keys), lambda h, g, i, *t: (h, 0, part(*t)), pipeline_mode=pl.Buffered(1))
    inputs, prefetch = [q, do, lse, delta, k, kt, v, dq, *made], []
    in_specs = [rows, rows, lanes, lanes, of_head, turned, of_head, rows]
    in_specs += [pl.BlockSpec(memory_space=pl.ANY)] * 2
    if spans:
        # The last number of the table is not of a block: it is the segment.
        table = m.stored(m.strip_table(mask, keys, blocks.queries, blocks.strip), blocks.strips)
        prefetch = [jnp.append(table, jnp.asarray(segment, jnp.int32))]
        batch = mask.rows.shape[0]
        per_row = heads // batch
        of_row = lambda h, g, i, *_: ((h * group + g) // per_row, 0, i)  # noqa: E731
        in_specs.append(pl.BlockSpec((1, 4, blocks.queries), of_row))
        inputs.append(mask.rows - mask.key_start)
    pieces = (blocks.ahead, blocks.tile, blocks.chunk)
    return pl.pallas_call(
        kernel,
        name="flash_backward",
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(prefetch),
            grid=(kv_heads, group, per_head),
            in_specs=in_specs,
            out_specs=[rows, written, written],
            scratch_shapes=[
                pltpu.VMEM(shape, jnp.float32) for shape in ((size, blocks.queries), pieces, pieces)
            ],
        ),
        out_shape=[
            shape_like(q.shape, jnp.float32, q),
            shape_like(k.shape, jnp.float32, q),
            shape_like(v.shape, jnp.float32, q),
        ],
        input_output_aliases={len(prefetch) + 7 + i: i for i in range(3)},
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary", "arbitrary"), vmem_limit_bytes=vmem_bytes
        ),
        cost_estimate=pl.CostEstimate(
            flops=10 * heads * length * keys * size // (1 if kind == "full" else 2),
            bytes_accessed=(2 * q.size + 3 * kv_heads * keys * size) * q.dtype.itemsize + 8 * q.size,
            transcendentals=heads * length * keys // (1 if kind == "full" else 2),
        ),
        interpret=interpret,
    )(*prefetch, *in_hbm(inputs, interpret))
