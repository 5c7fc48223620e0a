"""Paged attention on TPUs over a part of each row's keys, of one key head, with the log-sum-exp of every query.

For devices that split the tokens of pages between them. jax's kernel (tpu.py) keeps the log-sum-exp to itself, and
takes the places of a row's queries to follow one another, which they do not in a part.

A page is [P, 2E], a token's key and value beside each other: one copy brings both. Blocks of pages are copied while the
ones before are worked on, several at a time, because a single one would leave most of the memory's bandwidth idle.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from ..pallas import PLAIN, ROWS_BY_ROWS, in_hbm, little_memory, product, shape_like, vmem_bytes
from . import xla

NEVER = -1e30
QUERIES = 1024  # of a block, at most
# Of fast memory for keys and values (worked on, and on their way), and scores of a block. A block of bfloat16 keys has
# 4,096 with the usual width, since each turn of the loop has to wait for its own products; on a v4, 1,024.
BUFFER_BYTES, SCORES = 8 << 20, 1 << 22
LITTLE = 2 << 20, 1 << 18
COPIES = 4  # blocks of keys in fast memory, of which all but one are on their way
LANES = 128

copy = xla.copy


def empty(pages: int, size: int, kv_heads: int, width: int, dtype: Any) -> tuple[jax.Array]:
    """Keys and values of `pages` pages of `size` tokens, zeros [pages, size, K, 2E]; K is 1 on each device.

    Raises ValueError where a page is no whole number of a TPU's tiles.
    """
    rows = tile_rows(dtype)
    if size % rows or width % LANES:
        raise ValueError(
            f"where TPUs split the tokens of pages, each needs a multiple of {rows} of a page's tokens, and heads a "
            f"width that is a multiple of {LANES}; these are {size} and {width}"
        )
    return (jnp.zeros((pages, size, kv_heads, 2 * width), dtype),)


def tile_rows(dtype: Any) -> int:
    """Rows of a TPU's tile."""
    return 32 // jnp.dtype(dtype).itemsize


@dataclasses.dataclass(frozen=True)
class Blocks:
    """pages at a time, copies of that in fast memory, and queries of a block."""

    pages: int
    copies: int
    queries: int


def fit_blocks(queries: int, pages: int, size: int, width: int, dtype: Any) -> Blocks:
    """For so many queries and pages of a row, each of `size` tokens."""
    buffer, scores = LITTLE if little_memory() else (BUFFER_BYTES, SCORES)
    item = jnp.dtype(dtype).itemsize
    page = size * 2 * width * item
    at_once = max(1, min(buffer // COPIES // page, pages))
    copies = max(2, min(COPIES, buffer // (at_once * page)))
    most = min(QUERIES, scores * 2 // item // (at_once * size) // 16 * 16)
    return Blocks(at_once, copies, max(16, min(most, -(-queries // 16) * 16)))


def write(pool, k: jax.Array, v: jax.Array, table: jax.Array, places: jax.Array) -> tuple[jax.Array]:
    """See xla.py."""
    (both,) = pool
    size = both.shape[1]
    page = jnp.take_along_axis(table, jnp.maximum(places, 0) // size, axis=1)
    page = jnp.where(places >= 0, page, both.shape[0])
    pairs = jnp.concatenate([k, v], axis=-1).astype(both.dtype)
    return (both.at[page, jnp.maximum(places, 0) % size].set(pairs, mode="drop"),)


def attend_part(
    q: jax.Array, pool, table: jax.Array, places: jax.Array, interpret: bool = False
) -> tuple[jax.Array, jax.Array]:
    """See xla.py."""
    rows, count, heads, width = q.shape
    wanted = count * heads
    size, pages = pool[0].shape[1], table.shape[1]
    blocks = fit_blocks(wanted, pages, size, width, pool[0].dtype)
    # A token's heads beside each other, padded to whole blocks; the padding sees nothing.
    padding = -wanted % blocks.queries
    queries = jnp.pad(q.reshape(rows, wanted, width), ((0, 0), (0, padding), (0, 0)))
    seen = jnp.pad(jnp.repeat(places, heads, axis=1), ((0, 0), (0, padding)), constant_values=-1)
    turns = seen.reshape(rows, -1, blocks.queries).max(-1) // (blocks.pages * size) + 1
    table = jnp.pad(table, ((0, 0), (0, -pages % blocks.pages)))
    found = attend_blocks(queries, seen, pool, table, turns, blocks, interpret)
    out, norm = (x[:, :wanted].reshape(rows, count, heads, -1) for x in found)
    return out, norm[..., 0]


def attend_blocks(
    q: jax.Array,
    seen: jax.Array,
    pool,
    table: jax.Array,
    turns: jax.Array | int,
    blocks: Blocks,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Out float32 [B, Q, E] and log-sum-exp float32 [B, Q, 1] of queries q [B, Q, E], of which each sees the keys up to
    its own place, int32 [B, Q].

    turns: int32 [B, Q / blocks.queries], how many times blocks.pages a block sees; as a number, the same for all (the
    cycle simulator reads arrays as zeros).
    """
    (both,) = pool
    assert both.shape[2] == 1, "a device has the tokens of one key head"
    rows, length, width = q.shape
    size, block, number = both.shape[1], blocks.queries, length // blocks.queries
    fixed = turns if isinstance(turns, int) else None
    kernel = functools.partial(
        _kernel, blocks=number, columns=table.shape[1], at_once=blocks.pages, size=size, fixed=fixed
    )
    of_queries = lambda width: pl.BlockSpec((1, block, width), lambda b, i, *_: (b, i, 0))  # noqa: E731
    run = pl.pallas_call(
        kernel,
        out_shape=[shape_like((rows, length, n), jnp.float32, q) for n in (width, 1)],
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(rows, number),
            in_specs=[of_queries(width), of_queries(1), pl.BlockSpec(memory_space=pl.ANY)],
            out_specs=[of_queries(width), of_queries(1)],
            scratch_shapes=[
                pltpu.VMEM((blocks.copies, blocks.pages * size, 2 * width), both.dtype),
                pltpu.SemaphoreType.DMA((blocks.copies,)),
                *(pltpu.VMEM((block, n), jnp.float32) for n in (1, 1, width)),
            ],
        ),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=vmem_bytes()
        ),
        name="paged_attention_part",
        interpret=interpret,
    )
    counts = jnp.broadcast_to(jnp.asarray(turns, jnp.int32), (rows, number))
    (pages,) = in_hbm([both.reshape(-1, size, 2 * width)], interpret)
    return run(table.reshape(-1), counts.reshape(-1), q, seen[..., None], pages)


def _kernel(*refs, blocks: int, columns: int, at_once: int, size: int, fixed: int | None) -> None:
    """A block of a row's queries over all the keys that the last of them sees."""
    table, turns, q, seen, pages, out, norm, buffer, arrived, top, total, acc = refs
    row, width, keys = pl.program_id(0), q.shape[-1], at_once * size
    count = turns[row * blocks + pl.program_id(1)] if fixed is None else fixed
    slots = buffer.shape[0]

    def copies(turn) -> list[Any]:
        slot = turn % slots
        return [
            pltpu.make_async_copy(
                pages.at[table[row * columns + turn * at_once + i]],
                buffer.at[slot, pl.ds(i * size, size)],
                arrived.at[slot],
            )
            for i in range(at_once)
        ]

    def start(turn) -> None:
        @pl.when(turn < count)
        def _() -> None:
            for each in copies(turn):
                each.start()

    for turn in range(slots - 1):
        start(turn)
    top[...] = jnp.full_like(top, 0.5 * NEVER)
    total[...] = jnp.zeros_like(total)
    acc[...] = jnp.zeros_like(acc)

    def work(turn, _) -> None:
        start(turn + slots - 1)
        for each in copies(turn):
            each.wait()
        both = buffer[turn % slots]
        scores = product(q[0], both[:, :width], ROWS_BY_ROWS) * width**-0.5
        place = turn * keys + jax.lax.broadcasted_iota(jnp.int32, scores.shape, 1)
        scores = jnp.where(place <= seen[0], scores, NEVER)
        higher = jnp.maximum(top[...], scores.max(1, keepdims=True))
        weights, before = jnp.exp(scores - higher), jnp.exp(top[...] - higher)
        total[...] = total[...] * before + weights.sum(1, keepdims=True)
        acc[...] = acc[...] * before + product(weights.astype(both.dtype), both[:, width:], PLAIN)
        top[...] = higher

    jax.lax.fori_loop(0, count, work, None)
    divisor = jnp.where(total[...] > 0, total[...], 1.0)
    out[0] = acc[...] / divisor
    norm[0] = top[...] + jnp.log(divisor)
