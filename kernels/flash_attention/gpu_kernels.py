"""The kernels for GPUs (Pallas by way of Triton): forward, and backward once by queries and once by keys.

A program of the first two has a block of queries and goes through the keys that they see; one of the third has a block
of keys and goes through the queries that see it, of all heads of the group, so that every sum has one place and one
order (FlashAttention-2, arXiv 2307.08691). There scores are transposed, [keys, queries]: so probabilities and their
gradients are left operands, which a tensor core takes from registers. Exponentials are of base 2.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from ..pallas import PLAIN, ROWS_BY_ROWS, product, shaped
from . import gpu_visits as visits
from . import mask as m
from .gpu_visits import Tile

NEVER = -1e30
LOG2_E = 1.4426950408889634


def forward(q, k, v, mask: m.Mask, tile: Tile, scale: float, carry, interpret: bool):
    """(output [B, H, T, E] in q's dtype, or float32 with a carry; log-sum-exp float32 [B, H, T]).

    Args:
      q: [B, H, T, E]; k, v: [B, K, S, E]; E a power of two from 16 on, T and S whole blocks of the tile.
      carry: what this function gave for other keys, which these are added to; its memory is used. None: of none.
    """
    kind, (batch, heads, length, size) = mask.kind, q.shape
    blocks, count = length // tile.queries, k.shape[2] // tile.keys
    scale2 = scale * LOG2_E
    least = 0.5 * NEVER * scale2  # where a maximum begins, so that exp2(NEVER · scale2 − maximum) is 0

    def flash_attention_forward(q_ref, k_ref, v_ref, *refs):
        rows_ref, table_ref, refs = (*refs[:2], refs[2:]) if kind == "spans" else (None, None, refs)
        *before, out_ref, lse_ref = refs
        block, queries = blocks - 1 - pl.program_id(0), q_ref[...]
        if before:  # a softmax over one key whose score is the log-sum-exp and whose value is the output
            acc, lse = before[0][...], before[1][...]
            top, total = jnp.maximum(lse * LOG2_E, least), jnp.where(lse > 0.5 * NEVER, 1.0, 0.0)
        else:
            top, total = (
                jnp.full((tile.queries,), least, jnp.float32),
                jnp.zeros((tile.queries,), jnp.float32),
            )
            acc = jnp.zeros((tile.queries, size), jnp.float32)

        def visit(at, state, spans=None):
            acc, top, total = state
            here = pl.ds(at * tile.keys, tile.keys)
            scores = product(queries, k_ref[here, :], ROWS_BY_ROWS) * scale2
            if spans is not None:
                scores = jnp.where(visits.visible(spans, _places(at, tile)[None]), scores, NEVER * scale2)
            higher = jnp.maximum(top, scores.max(1))
            weights, shrink = jnp.exp2(scores - higher[:, None]), jnp.exp2(top - higher)
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

    of_block, of_token, of_keys = _by_queries(q, k, tile)
    inputs, in_specs = [q, k, v], [of_block, of_keys, of_keys]
    if kind == "spans":
        more, specs = _with_table(
            mask, visits.table_of_queries(mask, k.shape[2], tile), lambda i: blocks - 1 - i
        )
        inputs, in_specs = inputs + more, in_specs + specs
    aliases = {}
    if carry is not None:
        aliases = {len(inputs) + i: i for i in range(2)}
        inputs, in_specs = [*inputs, *carry], [*in_specs, of_block, of_token]
    return pl.pallas_call(
        flash_attention_forward,
        grid=(blocks, heads, batch),
        in_specs=in_specs,
        out_specs=[of_block, of_token],
        out_shape=[
            shaped(q.shape, q.dtype if carry is None else jnp.float32, q),
            shaped(q.shape[:3], jnp.float32, q),
        ],
        input_output_aliases=aliases,
        compiler_params=plgpu.CompilerParams(num_warps=tile.warps, num_stages=tile.stages),
        interpret=interpret,
    )(*inputs)


def backward_by_queries(
    q, k, v, mask: m.Mask, lse, delta, d_out, dq, tile: Tile, scale: float, interpret: bool
):
    """dq float32 [B, H, T, E], added to the one given (its memory is used), or to none.

    q, d_out: [B, H, T, E]; lse, delta: float32 [B, H, T]; k, v: [B, K, S, E]; sizes as in `forward`.
    """
    kind, (batch, heads, length, size) = mask.kind, q.shape
    blocks, count = length // tile.queries, k.shape[2] // tile.keys

    def flash_attention_backward_by_queries(q_ref, k_ref, v_ref, lse_ref, delta_ref, do_ref, *refs):
        rows_ref, table_ref, refs = (*refs[:2], refs[2:]) if kind == "spans" else (None, None, refs)
        *before, dq_ref = refs
        block, queries, d_out = blocks - 1 - pl.program_id(0), q_ref[...], do_ref[...]
        lse2, delta = (lse_ref[...] * LOG2_E)[:, None], delta_ref[...][:, None]

        def visit(at, acc, spans=None):
            here = pl.ds(at * tile.keys, tile.keys)
            keys = k_ref[here, :]
            weights = jnp.exp2(product(queries, keys, ROWS_BY_ROWS) * (scale * LOG2_E) - lse2)
            if spans is not None:
                weights = jnp.where(visits.visible(spans, _places(at, tile)[None]), weights, 0.0)
            ds = weights * (product(d_out, v_ref[here, :], ROWS_BY_ROWS) - delta)
            return acc + product(ds.astype(keys.dtype), keys, PLAIN)

        whole, edges = visits.ranges_of_keys(kind, tile, block, count, table_ref)
        acc = visits.over(whole, visit, jnp.zeros((tile.queries, size), jnp.float32))
        if edges:
            spans = [x[:, None] for x in visits.spans_of(kind, tile, block, rows_ref)]
            acc = visits.over(edges, lambda at, acc: visit(at, acc, spans), acc)
        dq_ref[...] = before[0][...] + acc * scale if before else acc * scale

    of_block, of_token, of_keys = _by_queries(q, k, tile)
    inputs = [q, k, v, lse, delta, d_out]
    in_specs = [of_block, of_keys, of_keys, of_token, of_token, of_block]
    if kind == "spans":
        more, specs = _with_table(
            mask, visits.table_of_queries(mask, k.shape[2], tile), lambda i: blocks - 1 - i
        )
        inputs, in_specs = inputs + more, in_specs + specs
    aliases = {}
    if dq is not None:
        aliases = {len(inputs): 0}
        inputs, in_specs = [*inputs, dq], [*in_specs, of_block]
    return pl.pallas_call(
        flash_attention_backward_by_queries,
        grid=(blocks, heads, batch),
        in_specs=in_specs,
        out_specs=of_block,
        out_shape=shaped(q.shape, jnp.float32, q),
        input_output_aliases=aliases,
        compiler_params=plgpu.CompilerParams(num_warps=tile.warps, num_stages=tile.stages),
        interpret=interpret,
    )(*inputs)


def backward_by_keys(q, k, v, mask: m.Mask, lse, delta, d_out, tile: Tile, scale: float, interpret: bool):
    """(dk, dv), float32 [B, K, S, E]; arguments as in `backward_by_queries`."""
    kind, (batch, heads, length, size), (_, kv_heads, keys, _) = mask.kind, q.shape, k.shape
    group, count = heads // kv_heads, length // tile.queries

    def flash_attention_backward_by_keys(q_ref, k_ref, v_ref, lse_ref, delta_ref, do_ref, *refs):
        rows_ref, table_ref, refs = (*refs[:2], refs[2:]) if kind == "spans" else (None, None, refs)
        dk_ref, dv_ref = refs
        block, keys, values = pl.program_id(0), k_ref[...], v_ref[...]

        def member(head, sums):
            whole, edges = visits.ranges_of_queries(kind, tile, block, count, table_ref)

            def visit(at, sums, masked=False):
                dk, dv = sums
                here = pl.ds(at * tile.queries, tile.queries)
                queries, d_out = q_ref[head, here, :], do_ref[head, here, :]
                lse2 = (lse_ref[head, here] * LOG2_E)[None]
                weights = jnp.exp2(product(keys, queries, ROWS_BY_ROWS) * (scale * LOG2_E) - lse2)
                if masked:
                    spans = [x[None] for x in visits.spans_of(kind, tile, at, rows_ref)]
                    weights = jnp.where(visits.visible(spans, _places(block, tile)[:, None]), weights, 0.0)
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
    inputs = [q, k, v, lse, delta, d_out]
    in_specs = [of_group, of_block, of_block, of_tokens, of_tokens, of_group]
    if kind == "spans":
        more, specs = _with_table(mask, visits.table_of_keys(mask, keys, tile), lambda j: j)
        inputs, in_specs = inputs + more, in_specs + specs
    return pl.pallas_call(
        flash_attention_backward_by_keys,
        grid=(keys // tile.keys, kv_heads, batch),
        in_specs=in_specs,
        out_specs=[of_block, of_block],
        out_shape=[shaped(k.shape, jnp.float32, q)] * 2,
        compiler_params=plgpu.CompilerParams(num_warps=tile.warps, num_stages=tile.stages),
        interpret=interpret,
    )(*inputs)


def _by_queries(q, k, tile: Tile) -> tuple[pl.BlockSpec, pl.BlockSpec, pl.BlockSpec]:
    """Of a program's queries [queries, E] and what they have one number of [queries], last blocks first, since under a
    causal mask they have most to do; and all keys or values of their head [S, E]."""
    last, group = q.shape[2] // tile.queries - 1, q.shape[1] // k.shape[1]
    return (
        pl.BlockSpec((None, None, tile.queries, q.shape[3]), lambda i, h, b: (b, h, last - i, 0)),
        pl.BlockSpec((None, None, tile.queries), lambda i, h, b: (b, h, last - i)),
        pl.BlockSpec((None, None, *k.shape[2:]), lambda i, h, b: (b, jax.lax.div(h, group), 0, 0)),
    )


def _with_table(mask: m.Mask, table: jax.Array, block: Any) -> tuple[list, list]:
    """A row's spans [4, T] and the table's row of a program, as inputs and their specs."""
    specs = [
        pl.BlockSpec((None, *mask.rows.shape[1:]), lambda i, h, b: (b, 0, 0)),
        pl.BlockSpec((None, None, table.shape[2]), lambda i, h, b: (b, block(i), 0)),
    ]
    return [mask.rows - mask.key_start, table], specs


def _places(block: Any, tile: Tile) -> jax.Array:
    """int32 [keys]: where the keys of a block are."""
    return block * tile.keys + jnp.arange(tile.keys, dtype=jnp.int32)
