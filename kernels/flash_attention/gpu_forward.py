"""The forward kernel for GPUs (Pallas by way of Triton): a program has a block of queries of one head, and goes through
the blocks of keys that they see. Exponentials are of base 2."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from ..pallas import PLAIN, ROWS_BY_ROWS, product, shape_like
from . import gpu_visits as visits
from . import mask as m
from .gpu_visits import Tile

NEVER = -1e30  # finite: a query that sees nothing gets zeros, not NaN
LOG2_E = 1.4426950408889634


def forward(q, k, v, mask: m.Mask, tile: Tile, scale: float, carry, interpret: bool) -> Any:
    """(output [B, H, T, E] in q's dtype, or float32 with a carry; log-sum-exp float32 [B, H, T]).

    Args:
      q: [B, H, T, E]; k, v: [B, K, S, E]; E a power of two from 16 on, T and S whole blocks of the tile.
      carry: what this function gave for other keys, which these are added to; its memory is used. None: of none.
    """
    kind, (batch, heads, length, size) = mask.kind, q.shape
    blocks, count = length // tile.queries, k.shape[2] // tile.keys
    scale2 = scale * LOG2_E
    least = 0.5 * NEVER * scale2  # where a maximum begins, so that exp2(NEVER · scale2 − maximum) is 0

    def flash_attention_forward(q_ref, k_ref, v_ref, *refs) -> None:
        rows_ref, table_ref, refs = visits.split(kind, refs)
        *before, out_ref, lse_ref = refs
        block, queries = blocks - 1 - pl.program_id(0), q_ref[...]
        if before:  # a softmax over one key whose score is the log-sum-exp and whose value is the output
            acc, lse = before[0][...], before[1][...]
            top, total = jnp.maximum(lse * LOG2_E, least), jnp.where(lse > 0.5 * NEVER, 1.0, 0.0)
        else:
            acc = jnp.zeros((tile.queries, size), jnp.float32)
            top = jnp.full((tile.queries,), least, jnp.float32)
            total = jnp.zeros((tile.queries,), jnp.float32)

        def visit(at, state, spans=None) -> tuple[Any, ...]:
            acc, top, total = state
            here = pl.ds(at * tile.keys, tile.keys)
            scores = product(queries, k_ref[here, :], ROWS_BY_ROWS)
            if spans is not None:
                seen = visits.visible(spans, visits.places(at, tile)[None])
                scores = jnp.where(seen, scores, NEVER)
            # Scaled behind the maximum: then it is part of the subtraction, one instruction for both.
            higher = jnp.maximum(top, scores.max(1) * scale2)
            weights, shrink = jnp.exp2(scores * scale2 - higher[:, None]), jnp.exp2(top - higher)
            values = v_ref[here, :]
            acc = acc * shrink[:, None] + product(weights.astype(values.dtype), values, PLAIN)
            return acc, higher, total * shrink + weights.sum(1)

        whole, edges = visits.ranges_of_keys(kind, tile, block, count, table_ref)
        state = visits.over(whole, visit, (acc, top, total))
        if edges:
            spans = [x[:, None] for x in visits.spans_of(kind, tile, block, rows_ref)]
            state = visits.over(edges, lambda at, state: visit(at, state, spans), state)
        acc, top, total = state
        seen = total > 0
        divisor = jnp.where(seen, total, 1.0)
        out_ref[...] = (acc / divisor[:, None]).astype(out_ref.dtype)
        lse_ref[...] = jnp.where(seen, top / LOG2_E + jnp.log(divisor), NEVER)

    of_block, of_token, of_keys = by_queries(q, k, tile)
    table, table_specs = table_by_queries(mask, k.shape[2], blocks, tile)
    inputs, in_specs, aliases = [q, k, v, *table], [of_block, of_keys, of_keys, *table_specs], {}
    if carry is not None:
        aliases = {len(inputs) + i: i for i in range(2)}
        inputs, in_specs = [*inputs, *carry], [*in_specs, of_block, of_token]
    return pl.pallas_call(
        flash_attention_forward,
        grid=(blocks, heads, batch),
        in_specs=in_specs,
        out_specs=[of_block, of_token],
        out_shape=[
            shape_like(q.shape, q.dtype if carry is None else jnp.float32, q),
            shape_like(q.shape[:3], jnp.float32, q),
        ],
        input_output_aliases=aliases,
        compiler_params=plgpu.CompilerParams(num_warps=tile.warps, num_stages=tile.stages),
        interpret=interpret,
    )(*inputs)


def by_queries(q: jax.Array, k: jax.Array, tile: Tile) -> tuple[pl.BlockSpec, pl.BlockSpec, pl.BlockSpec]:
    """Of a program's queries [queries, E] and what they have one number of [queries], last blocks first, since under a
    causal mask they have most to do; and all keys or values of their head [S, E]."""
    last, group = q.shape[2] // tile.queries - 1, q.shape[1] // k.shape[1]
    return (
        pl.BlockSpec((None, None, tile.queries, q.shape[3]), lambda i, h, b: (b, h, last - i, 0)),
        pl.BlockSpec((None, None, tile.queries), lambda i, h, b: (b, h, last - i)),
        pl.BlockSpec((None, None, *k.shape[2:]), lambda i, h, b: (b, jax.lax.div(h, group), 0, 0)),
    )


def table_by_queries(mask: m.Mask, keys: int, blocks: int, tile: Tile) -> tuple[list, list]:
    """The inputs that `visits.split` expects of a program with a block of queries, and their specs."""
    if mask.kind != "spans":
        return [], []
    return visits.inputs(mask, visits.table_of_queries(mask, keys, tile), lambda i: blocks - 1 - i)
