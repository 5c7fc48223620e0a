"""What the GPU kernels are asked to visit, and that attention lowers for CUDA, without a GPU.

That they compute what they should is in test_attention.py.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_cases import LENGTH, ROWS, spans
from jax.sharding import AxisType
from mirothinker_kernels.flash_attention import gpu_visits as v
from mirothinker_kernels.flash_attention import mask as m
from mirothinker_kernels.ring_attention.zigzag import Zigzag

from mirothinker_jax.config import MESH_AXES
from mirothinker_jax.parallel.attend import make_attend
from mirothinker_jax.types import Spans

PADDED = 256
KERNELS = [
    "flash_attention_backward_by_keys",
    "flash_attention_backward_by_queries",
    "flash_attention_forward",
]
TILES = [v.Tile(32, 16, warps=4, stages=2), v.Tile(16, 64, warps=4, stages=2)]


@functools.partial(jax.jit, static_argnums=1)
def both_tables(mask, tile):
    return v.table_of_queries(mask, PADDED, tile), v.table_of_keys(mask, PADDED, tile)


def tables(mask, tile):
    return [np.asarray(table) for table in both_tables(mask, tile)]


def blocks_of(ranges):
    return [block for start, end in ranges for block in range(int(start), int(end))]


def seen_by(mask):
    """Bool [B, T, S]."""
    trunk_lo, trunk_hi, own_lo, index = (np.asarray(mask.rows[:, i, :, None]) for i in range(4))
    key = np.arange(PADDED)
    return ((trunk_lo <= key) & (key < trunk_hi)) | ((own_lo <= key) & (key <= index))


def masks():
    """The rows of the cases, and what a device of four sees of another one's keys of them."""
    index = jnp.arange(LENGTH, dtype=jnp.int32)
    whole = m.Mask.of_spans(spans(), index)
    yield "rows", whole.of_padded(len(ROWS), LENGTH, LENGTH, PADDED, PADDED)
    long, layout = tuple(jnp.asarray(s) for s in spans(4 * PADDED)), Zigzag(4, PADDED // 2)
    for queries, keys in ((0, 0), (1, 2), (3, 1)):
        places = layout.places(queries)
        rows = m.Mask.of_spans(tuple(s[:, places] for s in long), places).rows
        yield f"device {queries} of {keys}", layout.mask(rows, keys)


@pytest.mark.parametrize("tile", TILES, ids=["32x16", "16x64"])
def test_every_visible_block_is_visited_once_and_masked_where_it_must_be(tile):
    def check(name, table, ranges, some, all_):
        for row, block in np.ndindex(table.shape[:2]):
            stops = table[row, block]
            here = name, ROWS[row], block, stops
            whole, edges = ranges("spans", tile, block, some.shape[2], stops)
            assert all(start <= end for start, end in (*whole, *edges)), here
            plain, masked = blocks_of(whole), blocks_of(edges)
            expected = np.flatnonzero(some[row, block])
            if ROWS[row] == "rows that see nothing" and ranges is v.ranges_of_queries and expected.size:
                # Made by hand: queries that see none lie between some that do, and are masked.
                expected = range(expected[0], expected[-1] + 1)
            assert sorted([*plain, *masked]) == list(expected), here
            assert all_[row, block, plain].all(), here
            assert not (all_[row, block, masked].any() and (name, ROWS[row]) == ("rows", "causal")), here

    for name, mask in masks():
        seen = seen_by(mask).reshape(len(ROWS), PADDED // tile.queries, tile.queries, -1, tile.keys)
        some, all_ = seen.any((2, 4)), seen.all((2, 4))
        of_queries, of_keys = tables(mask, tile)
        check(name, of_queries, v.ranges_of_keys, some, all_)
        check(name, of_keys, v.ranges_of_queries, some.swapaxes(1, 2), all_.swapaxes(1, 2))


@pytest.mark.parametrize("tile", TILES, ids=["32x16", "16x64"])
def test_a_causal_mask_visits_what_its_spans_would(tile):
    of_queries, of_keys = tables(m.Mask("causal").as_spans(1, PADDED, PADDED), tile)
    for table, ranges, count in (
        (of_queries, v.ranges_of_keys, PADDED // tile.keys),
        (of_keys, v.ranges_of_queries, PADDED // tile.queries),
    ):
        for block, stops in enumerate(table[0]):
            told, computed = (ranges(kind, tile, block, count, stops) for kind in ("spans", "causal"))
            assert [blocks_of(x) for x in told] == [blocks_of(x) for x in computed], block


@pytest.mark.parametrize(
    ("size", "dtype"), [(128, jnp.bfloat16), (80, jnp.float32)], ids=["128-bf16", "80-fp32"]
)
def test_the_models_attention_lowers_for_cuda(size, dtype):
    """To our kernels and no product outside of them; for a CPU to none of them."""
    batch, length = 2, 300
    shape = lambda heads: jax.ShapeDtypeStruct((batch, length, heads, size), dtype)  # noqa: E731
    rows = Spans(*(jax.ShapeDtypeStruct((batch, length), jnp.int32),) * 3)

    def loss(arrays, rows):
        out, _ = make_attend(rows)(*arrays, None)
        return out.astype(jnp.float32).sum()

    device = jax.sharding.AbstractDevice(device_kind="NVIDIA H100", num_cores=132, platform="gpu")
    mesh = jax.sharding.AbstractMesh(
        (1,) * len(MESH_AXES), MESH_AXES, (AxisType.Auto,) * len(MESH_AXES), abstract_device=device
    )
    with jax.sharding.use_abstract_mesh(mesh):
        traced = jax.jit(jax.grad(loss)).trace((shape(8), shape(2), shape(2)), rows)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
        plain = traced.lower(lowering_platforms=("cpu",)).as_text()
    assert sorted(re.findall(r'\bname = "(flash_\w+)"', text)) == KERNELS
    assert "stablehlo.dot_general" not in text
    assert "flash_attention" not in plain and "stablehlo.dot_general" in plain
