"""The forward kernel for TPUs: softmax(q kᵀ) v with a running maximum, keys on sublanes and queries on lanes.

Unusual is that scores are computed transposed, [keys, queries]. What belongs to a query (its maximum, its sum, its
spans) is then one row of lanes and costs a register per 128 queries instead of one per 8 (registers are what the usual
layout runs out of), and sums over keys are plain additions of registers. Values come transposed, so that no operand of
a product is turned round inside.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from ..pallas import PLAIN, ROWS_BY_ROWS, product, shape_like
from . import mask as m
from .strips import Blocks, Place, for_strips, idle, segment_of, visible

NEVER = -1e30  # finite: a query that sees nothing gets zeros, not NaN
LEAST = 0.5 * NEVER  # where a running maximum begins, so that exp(NEVER − maximum) is 0 from the first key on
LOG2_E = 1.4426950408889634
SUBLANES = 8


def forward(
    q: jax.Array,
    k: jax.Array,
    vt: jax.Array,
    mask: m.Mask,
    blocks: Blocks,
    carry: tuple[jax.Array, jax.Array] | None = None,
    *,
    interpret: bool = False,
    vmem_bytes: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """(output [B·H, T, E] in q's dtype, or float32 with a carry; log-sum-exp float32 [B·H, 1, T]).

    Args:
      q: [B·H, T, E], T a multiple of blocks.queries. k: [B·K, S, E] and vt: [B·K, E, S], S a multiple of
        blocks.segment. A query that sees no key gets zeros, and −1e30 as log-sum-exp.
      carry: what this function gave for other keys, which these are added to; its memory is used.
    """
    heads, length, size = q.shape
    kv_heads, keys = k.shape[:2]
    grid = (heads, length // blocks.queries, keys // blocks.segment)
    group = heads // kv_heads
    kind, spans = mask.kind, mask.kind == "spans"
    strips = keys // blocks.strip
    scale2 = size**-0.5 * LOG2_E  # exponentials are of base 2, which is what the hardware has

    def kernel(*refs) -> None:
        table, refs = (refs[0], refs[1:]) if spans else (None, refs)
        q_ref, k_ref, vt_ref, *refs = refs
        rows_ref, refs = (refs[0], refs[1:]) if spans else (None, refs)
        before, refs = (refs[:2], refs[2:]) if carry is not None else (None, refs)
        o_ref, lse_ref, top_ref, sum_ref, acc_ref, next_ref = refs
        block, step = pl.program_id(1), pl.program_id(2)
        row = table_row(pl.program_id(0), block, heads, mask, grid[1])
        column = m.reader(table, row, strips) if spans else None
        segment = segment_of(kind, blocks, block, step, column)
        first = segment * blocks.strips if spans or grid[2] > 1 else None
        place = Place(kind, blocks, block, first, column)

        @pl.when(step == 0)
        def _() -> None:
            if before is None:
                top_ref[...] = jnp.full_like(top_ref, LEAST)
                sum_ref[...] = jnp.zeros_like(sum_ref)
                acc_ref[...] = jnp.zeros_like(acc_ref)
            else:  # a softmax over one key whose score is the log-sum-exp and whose value is the output
                lse = before[1][0]
                top_ref[...] = jnp.maximum(lse * size**0.5, LEAST)
                first = jax.lax.broadcasted_iota(jnp.int32, sum_ref.shape, 0) == 0
                sum_ref[...] = jnp.where(first & (lse > LEAST), 1.0, 0.0)
                acc_ref[...] = before[0][0].T

        def score(at, number) -> Any:
            keys_, queries = blocks.piece(number)
            return product(k_ref.at[0, at][keys_], q_ref[0, queries], ROWS_BY_ROWS)

        def begin(strip) -> None:
            for number in range(blocks.ahead):
                next_ref[number] = score(blocks.keys_of(strip), number)

        def run(strip, strips, after, masked) -> None:
            pieces, at, then = blocks.pieces(strips), blocks.keys_of(strip, strips), blocks.keys_of(after)
            # The softmax's state of each chunk of queries.
            tops, totals, accs = (
                [ref[:, blocks.queries_of(chunk)] for chunk in range(blocks.chunks)]
                for ref in (top_ref, sum_ref, acc_ref)
            )
            ready = [next_ref[number] for number in range(blocks.ahead)]
            for number in range(pieces):
                coming = number + blocks.ahead
                ready.append(score(at, coming) if coming < pieces else score(then, coming - pieces))
                scores, (keys_, queries) = ready.pop(0), blocks.piece(number)
                chunk = number % blocks.chunks
                top = tops[chunk]
                if masked:
                    start = segment * blocks.segment + strip * blocks.strip + keys_.start
                    scores = jnp.where(visible(place, start, queries, rows_ref), scores, NEVER)
                higher = jnp.maximum(top, scores.max(0, keepdims=True))
                weights = jnp.exp2((scores - higher) * scale2)
                shrink = jnp.exp2((top - higher) * scale2)
                totals[chunk] = totals[chunk] * shrink + weights.reshape(-1, SUBLANES, blocks.chunk).sum(0)
                values = vt_ref.at[0, :, at][:, keys_]
                accs[chunk] = accs[chunk] * shrink + product(values, weights.astype(values.dtype), PLAIN)
                tops[chunk] = higher
            for number in range(blocks.ahead):
                next_ref[number] = ready[number]
            for chunk in range(blocks.chunks):
                for ref, state in ((top_ref, tops), (sum_ref, totals), (acc_ref, accs)):
                    ref[:, blocks.queries_of(chunk)] = state[chunk]

        work = functools.partial(for_strips, place, run, begin)
        if grid[2] == 1:
            work()
        else:
            pl.when(jnp.logical_not(idle(kind, blocks, block, step, column)))(work)

        @pl.when(step == grid[2] - 1)
        def _() -> None:
            total = sum_ref[...].sum(0, keepdims=True)
            seen = total > 0
            divisor = jnp.where(seen, total, 1.0)
            o_ref[0] = (acc_ref[...] / divisor).T.astype(o_ref.dtype)
            natural = top_ref[...] * size**-0.5 + jnp.log(divisor)
            lse_ref[0] = jnp.where(seen, natural, NEVER)

    def segment(h, i, s, *table) -> Any:
        column = m.reader(table[0], table_row(h, i, heads, mask, grid[1]), strips) if spans else None
        return segment_of(kind, blocks, i, s, column)

    in_specs = [
        pl.BlockSpec((1, blocks.queries, size), lambda h, i, s, *_: (h, i, 0)),
        pl.BlockSpec((1, blocks.segment, size), lambda h, i, s, *t: (h // group, segment(h, i, s, *t), 0)),
        pl.BlockSpec((1, size, blocks.segment), lambda h, i, s, *t: (h // group, 0, segment(h, i, s, *t))),
    ]
    inputs = [q, k, vt]
    prefetch = []
    if spans:
        prefetch = [m.stored(m.strip_table(mask, keys, blocks.queries, blocks.strip), strips)]
        per_row = heads // mask.rows.shape[0]
        in_specs.append(pl.BlockSpec((1, 4, blocks.queries), lambda h, i, s, *_: (h // per_row, 0, i)))
        inputs.append(mask.rows - mask.key_start)
    outputs = [
        pl.BlockSpec((1, blocks.queries, size), lambda h, i, s, *_: (h, i, 0)),
        pl.BlockSpec((1, 1, blocks.queries), lambda h, i, s, *_: (h, 0, i)),
    ]
    aliases = {}
    if carry is not None:
        aliases = {len(prefetch) + len(inputs) + i: i for i in range(2)}
        in_specs += outputs
        inputs += carry
    return pl.pallas_call(
        kernel,
        name="flash_forward",
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(prefetch),
            grid=grid,
            in_specs=in_specs,
            out_specs=outputs,
            scratch_shapes=[
                pltpu.VMEM((1, blocks.queries), jnp.float32),
                pltpu.VMEM((SUBLANES, blocks.queries), jnp.float32),
                pltpu.VMEM((size, blocks.queries), jnp.float32),
                pltpu.VMEM((blocks.ahead, blocks.tile, blocks.chunk), jnp.float32),
            ],
        ),
        out_shape=[
            shape_like(q.shape, q.dtype if carry is None else jnp.float32, q),
            shape_like((heads, 1, length), jnp.float32, q),
        ],
        input_output_aliases=aliases,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary", "arbitrary"), vmem_limit_bytes=vmem_bytes
        ),
        cost_estimate=pl.CostEstimate(
            flops=4 * heads * length * keys * size // (1 if kind == "full" else 2),
            bytes_accessed=(2 * q.size + k.size + vt.size) * q.dtype.itemsize,
            transcendentals=heads * length * keys // (1 if kind == "full" else 2),
        ),
        interpret=interpret,
    )(*prefetch, *inputs)


def table_row(head: Any, block: Any, heads: int, mask: m.Mask, blocks: int) -> Any:
    """Which row of the strip table a head's block of queries has: heads of one batch row share it."""
    return head // (heads // mask.rows.shape[0]) * blocks + block if mask.kind == "spans" else block
