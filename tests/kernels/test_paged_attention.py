"""Paged attention against its definition, over pages in any order, ragged rows and both layouts."""

import functools

import jax
import jax.numpy as jnp
import mirothinker_kernels.paged_attention.tpu as tpu
import mirothinker_kernels.paged_attention.xla as xla
import numpy as np
import pytest
from jax.experimental.pallas.ops.tpu.ragged_paged_attention import ref_ragged_paged_attention
from mirothinker_kernels.paged_attention import reference

PAGE, PAGES, COLUMNS, HEADS, KV_HEADS, WIDTH = 4, 40, 6, 4, 2, 8
LENGTHS = [1, 4, 9, 17, 0]  # of contexts before the new tokens


def contexts(count, dtype=np.float32):
    """Keys and values of five rows in one piece, queries and places of `count` new tokens each, and page tables."""
    rng = np.random.default_rng(0)
    rows, whole = len(LENGTHS), COLUMNS * PAGE
    keys, values = (rng.normal(size=(rows, whole, KV_HEADS, WIDTH)).astype(dtype) for _ in range(2))
    q = rng.normal(size=(rows, count, HEADS, WIDTH)).astype(dtype)
    places = np.asarray(LENGTHS, np.int32)[:, None] + np.arange(count, dtype=np.int32)
    table = rng.permutation(PAGES)[: rows * COLUMNS].reshape(rows, COLUMNS).astype(np.int32)
    return keys, values, q, places, table


def filled(kernels, keys, values, table, ends, dtype=np.float32):
    """Pages with the first ends[b] tokens of every row, and garbage elsewhere."""
    pool = kernels.empty(PAGES, PAGE, KV_HEADS, WIDTH, dtype)
    pool = jax.tree.map(lambda x: x + jnp.asarray(7, x.dtype), pool)
    places = np.arange(keys.shape[1], dtype=np.int32)[None]
    places = np.where(places < np.asarray(ends)[:, None], places, -1).astype(np.int32)
    return jax.jit(kernels.write)(pool, keys, values, table, places)


def page_bytes(pool):
    """Of a page, keys and values."""
    return sum(part[0].nbytes for part in pool)


# All rows at once, and blocks of two rows, which five do not divide into.
@pytest.mark.parametrize(("count", "block"), [(1, 0), (1, 2), (5, 2)])
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_attention_is_the_definition(count, block, dtype):
    keys, values, q, places, table = contexts(count, dtype)
    pool = filled(xla, keys, values, table, places[:, -1] + 1, dtype)
    attend = jax.jit(functools.partial(xla.attend, at_once=block * page_bytes(pool)))
    found = np.asarray(attend(q, pool, table, places), np.float32)
    tolerance = 2e-6 if dtype == np.float32 else 2e-2
    np.testing.assert_allclose(found, reference.attend(q, keys, values, places), atol=tolerance)


@pytest.mark.parametrize("block", [0, 2])
def test_padding_sees_nothing_and_changes_nothing(block):
    """Bit for bit: whether rows are none, and how long their neighbours are."""
    keys, values, q, places, table = contexts(3)
    pool = filled(xla, keys, values, table, places[:, -1] + 1)
    attend = jax.jit(functools.partial(xla.attend, at_once=block * page_bytes(pool)))
    whole = np.asarray(attend(q, pool, table, places))
    places[1], places[3], places[2, 2] = -1, -1, -1
    padded = np.asarray(attend(q, pool, table, places))
    assert (padded[[1, 3]] == 0).all() and (padded[2, 2] == 0).all()
    np.testing.assert_array_equal(padded[[0, 4]], whole[[0, 4]])
    np.testing.assert_array_equal(padded[2, :2], whole[2, :2])


@pytest.mark.parametrize("kernels", [xla, tpu])
def test_pages_are_written_where_they_belong_and_copied_in_order(kernels):
    pool = jax.tree.map(np.asarray, kernels.empty(6, PAGE, KV_HEADS, WIDTH, np.float32))
    ones = (
        np.ones((2, 3, KV_HEADS, WIDTH), np.float32) * np.arange(1, 3, dtype=np.float32)[:, None, None, None]
    )
    table, places = np.asarray([[2, 4], [5, 1]], np.int32), np.asarray([[3, 4, -1], [0, 1, 2]], np.int32)
    pool = jax.jit(kernels.write)(pool, ones, -ones, table, places)

    def tokens(page):
        """Of a page, the first key's number by place."""
        x = np.asarray(pool[0][page])
        return (x[:, 0, 0] if kernels is tpu else x[0, 0]).tolist()

    assert [tokens(i) for i in range(6)] == [
        [0.0] * 4,
        [0.0] * 4,
        [0, 0, 0, 1],
        [0.0] * 4,
        [1, 0, 0, 0],
        [2, 2, 2, 0],
    ]
    moves = np.asarray([[2, 5, 3], [5, 0, -1]], np.int32)  # 2 → 5, then what 5 is now → 0
    pool = jax.jit(kernels.copy)(pool, *moves)
    assert tokens(0) == tokens(5) == tokens(2) == [0, 0, 0, 1] and tokens(3) == [0.0] * 4


@pytest.mark.parametrize("count", [1, 5])
def test_the_tpu_kernel_is_asked_for_the_same(monkeypatch, relaxed_promotion, count):
    """With jax's own reference in the place of its kernel, which needs a TPU."""

    def on_a_cpu(*args, num_kv_pages_per_block, num_queries_per_block, **kwargs):
        assert num_kv_pages_per_block <= COLUMNS and num_queries_per_block <= count * len(LENGTHS)
        return ref_ragged_paged_attention(*args, **kwargs)

    monkeypatch.setattr(tpu, "ragged_paged_attention", on_a_cpu)
    keys, values, q, places, table = contexts(count)
    pool = filled(tpu, keys, values, table, places[:, -1] + 1)
    found = np.asarray(tpu.attend(jnp.asarray(q), pool, jnp.asarray(table), jnp.asarray(places)))
    np.testing.assert_allclose(found, reference.attend(q, keys, values, places), atol=2e-6)
