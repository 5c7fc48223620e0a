"""Paged attention against its definition, over pages in any order, ragged rows and both layouts."""

import functools

import jax
import jax.numpy as jnp
import mirothinker_kernels.paged_attention.tpu as tpu
import mirothinker_kernels.paged_attention.tpu_part as tpu_part
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


@pytest.mark.parametrize("kernels", [xla, tpu_part])
@pytest.mark.parametrize(("count", "dtype"), [(1, np.float32), (5, np.float32), (5, jnp.bfloat16)])
def test_shares_of_the_keys_add_up(monkeypatch, kernels, count, dtype):
    """Three devices with every third token of one key head's pages, of 16 tokens each, in several blocks."""
    shares, size, columns, heads, width = 3, 16, 3, 4, 128
    rng = np.random.default_rng(0)
    lengths = np.asarray([0, 47, 100, 139], np.int32)
    keys, values = (rng.normal(size=(4, columns * shares * size, 1, width)).astype(dtype) for _ in range(2))
    q = rng.normal(size=(4, count, heads, width)).astype(dtype)
    places = lengths[:, None] + np.arange(count, dtype=np.int32)
    places[2] = -1  # a row that is none
    table = rng.permutation(20)[: 4 * columns].reshape(4, columns).astype(np.int32)
    every = np.broadcast_to(np.arange(keys.shape[1], dtype=np.int32), keys.shape[:2])
    attend = kernels.attend_part
    if kernels is tpu_part:
        monkeypatch.setattr(tpu_part, "fit_blocks", lambda *_: tpu_part.Blocks(2, 2, 16))
        attend = functools.partial(attend, interpret=True)
    found = []
    for i in range(shares):
        pool = jax.tree.map(lambda x: x + jnp.asarray(7, x.dtype), kernels.empty(20, size, 1, width, dtype))
        own = np.where((every % shares == i) & (every <= places.max(1)[:, None]), every // shares, -1)
        pool = kernels.write(
            pool, jnp.asarray(keys), jnp.asarray(values), jnp.asarray(table), jnp.asarray(own)
        )
        found.append(jax.jit(attend)(q, pool, table, (places - i) // shares))
    out, norm = (np.stack([np.asarray(x) for x in part]) for part in zip(*found, strict=True))
    assert out.dtype == norm.dtype == np.float32
    weights = np.exp(norm - norm.max(0))[..., None]
    merged = (out * weights).sum(0) / weights.sum(0)
    tolerance = 2e-6 if dtype == np.float32 else 2e-2
    np.testing.assert_allclose(merged, reference.attend(q, keys, values, places), atol=tolerance)
    assert (norm[:, 2] < -1e29).all() and (norm[2, 0, 0] < -1e29).all(), (
        "the last share has nothing of two tokens"
    )


@pytest.mark.parametrize(("size", "width"), [(8, 128), (16, 64)])
def test_shares_that_are_no_whole_tiles_are_refused(size, width):
    with pytest.raises(
        ValueError, match=r"a multiple of 16 of a page's tokens, .* multiple of 128; these are \d+"
    ):
        tpu_part.empty(4, size, 1, width, jnp.bfloat16)


@pytest.mark.parametrize(("dtype", "item"), [(jnp.bfloat16, 2), (np.float32, 4)])
@pytest.mark.parametrize("width", [128, 256])
@pytest.mark.parametrize("size", [16, 64, 96, 4096, 8192])
@pytest.mark.parametrize("queries", [8, 512, 4096])
def test_blocks_fit_fast_memory(dtype, item, width, size, queries):
    """Whatever a page has, up to one that alone takes half of the room; at most 8 MiB of keys, and 24 of scores and of
    weights in the keys' dtype."""
    blocks = tpu_part.fit_blocks(queries, 10_000, size, width, dtype)
    keys = blocks.pages * size
    page = size * 2 * width * item
    assert blocks.copies * blocks.pages * page <= max(8 << 20, 2 * page)
    assert blocks.queries % 16 == 0 and blocks.queries <= max(16, queries)
    assert keys * blocks.queries * (4 + item) <= 24 << 20
    assert blocks.copies >= 2 and (page > 4 << 20 or keys * 2 * width * item >= 1 << 20)
