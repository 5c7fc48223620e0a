"""The backward kernels for GPUs (Pallas by way of Triton): one by queries makes dq, one by keys makes dk and dv.

A program of the second has a block of keys, and goes through the queries that see it, of all heads of the group: so
every sum has one place and one order (FlashAttention-2, arXiv 2307.08691), at the price of seven products for five. Its
scores are transposed, [keys, queries]: probabilities and their gradients are then left operands, which tensor cores
take from registers.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from ..pallas import PLAIN, ROWS_BY_ROWS, product, shape_like
from . import gpu_visits as visits
from . import mask as m
from .gpu_forward import LOG2_E, by_queries, table_by_queries
from .gpu_visits import Tile


def dq_by_queries(
    q, k, v, mask: m.Mask, lse, delta, d_out, dq, tile: Tile, scale: float, interpret: bool
) -> Any:
    """dq float32 [B, H, T, E], added to the one given (its memory is used), or to none.

    q, d_out: [B, H, T, E]; lse, delta: float32 [B, H, T]; k, v: [B, K, S, E]; sizes as in `gpu_forward.forward`.
    """
    kind, (batch, heads, length, size) = mask.kind, q.shape
    blocks, count = length // tile.queries, k.shape[2] // tile.keys

    def flash_attention_backward_by_queries(q_ref, k_ref, v_ref, lse_ref, delta_ref, do_ref, *refs) -> None:
        rows_ref, table_ref, refs = visits.split(kind, refs)
        *before, dq_ref = refs
        block, queries, d_out = blocks - 1 - pl.program_id(0), q_ref[...], do_ref[...]
        lse2, delta = (lse_ref[...] * LOG2_E)[:, None], delta_ref[...][:, None]

        def visit(at, acc, spans=None) -> Any:
            here = pl.ds(at * tile.keys, tile.keys)
            keys = k_ref[here, :]
            weights = jnp.exp2(product(queries, keys, ROWS_BY_ROWS) * (scale * LOG2_E) - lse2)
            if spans is not None:
                weights = jnp.where(visits.visible(spans, visits.places(at, tile)[None]), weights, 0.0)
            ds = weights * (product(d_out, v_ref[here, :], ROWS_BY_ROWS) - delta)
            return acc + product(ds.astype(keys.dtype), keys, PLAIN)

        whole, edges = visits.ranges_of_keys(kind, tile, block, count, table_ref)
        acc = visits.over(whole, visit, jnp.zeros((tile.queries, size), jnp.float32))
        if edges:
            spans = [x[:, None] for x in visits.spans_of(kind, tile, block, rows_ref)]
            acc = visits.over(edges, lambda at, acc: visit(at, acc, spans), acc)
        dq_ref[...] = before[0][...] + acc * scale if before else acc * scale

    of_block, of_token, of_keys = by_queries(q, k, tile)
    table, table_specs = table_by_queries(mask, k.shape[2], blocks, tile)
    inputs, aliases = [q, k, v, lse, delta, d_out, *table], {}
    in_specs = [of_block, of_keys, of_keys, of_token, of_token, of_block, *table_specs]
    if dq is not None:
        aliases = {len(inputs): 0}
        inputs, in_specs = [*inputs, dq], [*in_specs, of_block]
    return pl.pallas_call(
        flash_attention_backward_by_queries,
        grid=(blocks, heads, batch),
        in_specs=in_specs,
        out_specs=of_block,
        out_shape=shape_like(q.shape, jnp.float32, q),
        input_output_aliases=aliases,
        compiler_params=plgpu.CompilerParams(num_warps=tile.warps, num_stages=tile.stages),
        interpret=interpret,
    )(*inputs)


def dk_dv_by_keys(q, k, v, mask: m.Mask, lse, delta, d_out, tile: Tile, scale: float, interpret: bool) -> Any:
    """(dk, dv), float32 [B, K, S, E]; arguments as in `dq_by_queries`."""
    kind, (batch, heads, length, size), (_, kv_heads, keys, _) = mask.kind, q.shape, k.shape
    group, count = heads // kv_heads, length // tile.queries

    def flash_attention_backward_by_keys(q_ref, k_ref, v_ref, lse_ref, delta_ref, do_ref, *refs) -> None:
        rows_ref, table_ref, (dk_ref, dv_ref) = visits.split(kind, refs)
        block, keys, values = pl.program_id(0), k_ref[...], v_ref[...]
        whole, edges = visits.ranges_of_queries(kind, tile, block, count, table_ref)

        def member(head, sums) -> Any:
            def visit(at, sums, masked=False) -> tuple[Any, ...]:
                dk, dv = sums
                here = pl.ds(at * tile.queries, tile.queries)
                queries, d_out = q_ref[head, here, :], do_ref[head, here, :]
                lse2 = (lse_ref[head, here] * LOG2_E)[None]
                weights = jnp.exp2(product(keys, queries, ROWS_BY_ROWS) * (scale * LOG2_E) - lse2)
                if masked:
                    spans = [x[None] for x in visits.spans_of(kind, tile, at, rows_ref)]
                    seen = visits.visible(spans, visits.places(block, tile)[:, None])
                    weights = jnp.where(seen, weights, 0.0)
                ds = weights * (product(values, d_out, ROWS_BY_ROWS) - delta_ref[head, here][None])
                dv = dv + product(weights.astype(d_out.dtype), d_out, PLAIN)
                return dk + product(ds.astype(queries.dtype), queries, PLAIN), dv

            sums = visits.over(whole, visit, sums)
            return visits.over(edges, lambda at, sums: visit(at, sums, masked=True), sums)

        zeros = jnp.zeros((tile.keys, size), jnp.float32)
        dk, dv = jax.lax.fori_loop(0, group, member, (zeros, zeros))
        dk_ref[...] = dk * scale
        dv_ref[...] = dv

    of_block = pl.BlockSpec((None, None, tile.keys, size), lambda j, h, b: (b, h, j, 0))
    of_group = pl.BlockSpec((None, group, length, size), lambda j, h, b: (b, h, 0, 0))
    of_tokens = pl.BlockSpec((None, group, length), lambda j, h, b: (b, h, 0))
    table, table_specs = [], []
    if kind == "spans":
        table, table_specs = visits.inputs(mask, visits.table_of_keys(mask, keys, tile), lambda j: j)
    return pl.pallas_call(
        flash_attention_backward_by_keys,
        grid=(keys // tile.keys, kv_heads, batch),
        in_specs=[of_group, of_block, of_block, of_tokens, of_tokens, of_group, *table_specs],
        out_specs=[of_block, of_block],
        out_shape=[shape_like(k.shape, jnp.float32, q)] * 2,
        compiler_params=plgpu.CompilerParams(num_warps=tile.warps, num_stages=tile.stages),
        interpret=interpret,
    )(q, k, v, lse, delta, d_out, *table)
