"""Attention of one device, by our TPU and GPU kernels (interpreted; the latter compiled where there is a GPU) and by
plain XLA, against dense float32: output, log-sum-exp and all gradients, for every kind of mask; tolerances are those of
attention_cases.py."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from attention_cases import (
    LENGTH,
    ROWS,
    assert_close,
    case,
    gpu_kernels,
    graded,
    kernels_of,
    on_one_device,
    spans,
)
from jax.sharding import AxisType
from mirothinker_kernels.flash_attention import blockwise, gpu, tpu
from mirothinker_kernels.flash_attention import mask as m
from mirothinker_kernels.flash_attention.reference import visible
from mirothinker_kernels.flash_attention.strips import Blocks
from mirothinker_kernels.flash_attention.tiling import TABLE, fit_blocks, largest
from mirothinker_kernels.pallas import vmem_bytes

from mirothinker_jax.data.packing import pack_pairs

# Fine: several segments, stretches of several strips, more pieces ahead than a tile has. Coarse: one of each.
FINE = kernels_of(tpu, largest=Blocks(128, 64, 16, 32, stretch=64, segment=128, ahead=3), interpret=True)
COARSE = kernels_of(tpu, largest=Blocks(256, 256, 64, 128, stretch=128, segment=256, ahead=1), interpret=True)
GPU, GPU_WIDE = gpu_kernels(32, 64), gpu_kernels(128, 32)
CHUNKS, ONE_CHUNK, LOOPS = (
    kernels_of(blockwise, chunk=n) for n in (64, 256, 3)
)  # a chunk of 3: bands of 3 chunks


FP32, BF16 = jnp.float32, jnp.bfloat16
# Every pair of group size, head size and dtype; not every triple, of which each costs ten seconds.
PAIRS = [(1, 64, FP32), (1, 128, BF16), (4, 64, BF16), (4, 128, FP32), (8, 64, FP32), (8, 128, BF16)]
DEAR = (PAIRS[0], PAIRS[2], PAIRS[5])  # with the interpreted kernels


@pytest.mark.parametrize(
    ("groups", "size", "dtype", "run"),
    [
        *[
            pytest.param(
                *sizes,
                FINE,
                id="tpu-{}-{}-{.__name__}".format(*sizes),
                marks=pytest.mark.slow if sizes in DEAR else (),
            )
            for sizes in PAIRS
        ],
        pytest.param(4, 64, FP32, COARSE, id="tpu-coarse-fp32"),
        pytest.param(1, 128, BF16, COARSE, id="tpu-coarse-bf16"),
        pytest.param(1, 128, BF16, GPU, id="gpu-1-128-bf16"),
        pytest.param(8, 64, FP32, GPU_WIDE, id="gpu-8-64-fp32"),
        *[
            pytest.param(*sizes, run, id="gpu-{}-{}-{.__name__}".format(*sizes), marks=pytest.mark.slow)
            for *sizes, run in (
                (1, 64, FP32, GPU),
                (1, 80, BF16, GPU),
                (4, 64, BF16, GPU_WIDE),
                (4, 128, FP32, GPU),
                (8, 128, BF16, GPU_WIDE),
            )
        ],
        *[pytest.param(*sizes, CHUNKS, id="xla-{}-{}-{.__name__}".format(*sizes)) for sizes in PAIRS],
        pytest.param(4, 64, BF16, ONE_CHUNK, id="xla-one-chunk"),
        pytest.param(4, 64, FP32, LOOPS, id="xla-loops-fp32"),
        pytest.param(4, 64, BF16, LOOPS, id="xla-loops-bf16", marks=pytest.mark.slow),
    ],
)
def test_spans_against_dense_float32(groups, size, dtype, run):
    arrays, weights, exact, rounded = case(groups, size, dtype)
    mask = m.Mask.of_spans(spans(), jnp.arange(LENGTH, dtype=jnp.int32), aligned=True)
    got = jax.jit(lambda arrays: graded(on_one_device(run, mask), arrays, weights))(arrays)
    plain = run.forward.func is blockwise.forward
    assert_close(got, exact, rounded, dtype, *((2e-6, 4e-6) if plain else ()))


# Here a causal row and a branch behind a long trunk fill whole blocks of queries, so that strips are whole.
LONG, STRETCHES = 1024, Blocks(128, 64, 16, 32, stretch=64, segment=256, ahead=3)


@pytest.mark.parametrize("dtype", [FP32, BF16], ids=["fp32", "bf16"])
@pytest.mark.slow
def test_stretches_without_a_mask(dtype):
    arrays, weights, exact, rounded = case(2, 64, dtype, LONG)
    index = jnp.arange(LONG, dtype=jnp.int32)
    mask = m.Mask.of_spans(spans(LONG), index)
    table = np.asarray(m.strip_table(mask, LONG, STRETCHES.queries, STRETCHES.strip)).reshape(
        len(ROWS), -1, 8
    )
    whole = table[..., 5::2] - table[..., 4::2]
    assert (whole[0, 1:, 1] >= STRETCHES.reach).all() and (whole[2, :, 0] >= STRETCHES.reach).any()
    run = kernels_of(tpu, largest=STRETCHES, interpret=True)
    got = jax.jit(lambda arrays: graded(on_one_device(run, mask), arrays, weights))(arrays)
    assert_close(got, exact, rounded, dtype)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("blocks", "dtype"),
    [(gpu.HOPPER, BF16), (gpu.OTHERS, FP32)],
    ids=["gpu-hopper-bf16", "gpu-others-fp32"],
)
def test_blocks_that_gpus_get(blocks, dtype):
    arrays, weights, exact, rounded = case(2, 64, dtype, LONG)
    mask = m.Mask.of_spans(spans(LONG), jnp.arange(LONG, dtype=jnp.int32), aligned=True)
    run = kernels_of(gpu, largest=blocks, interpret=jax.default_backend() == "cpu")
    got = jax.jit(lambda arrays: graded(on_one_device(run, mask), arrays, weights))(arrays)
    assert_close(got, exact, rounded, dtype)


@pytest.mark.slow
def test_gradients_begin_with_whatever_the_memory_holds(monkeypatch):
    """dk and dv have a place before they have a value. Sixteen segments: a loop of calls."""
    arrays, weights, exact, rounded = case(2, 64, jnp.float32, LONG)
    small = Blocks(128, 64, 16, 32, stretch=64, segment=64, ahead=3)
    assert fit_blocks(small, LONG, LONG, 4).segment * tpu.UNROLLED < LONG
    monkeypatch.setattr(jax.lax, "empty", lambda shape, dtype: jnp.full(shape, jnp.nan, dtype))
    mask = m.Mask.of_spans(spans(LONG), jnp.arange(LONG, dtype=jnp.int32))
    run = kernels_of(tpu, largest=small, interpret=True)
    got = jax.jit(lambda arrays: graded(on_one_device(run, mask), arrays, weights))(arrays)
    assert_close(got, exact, rounded, jnp.float32)


@pytest.mark.parametrize(
    "run", [pytest.param(FINE, marks=pytest.mark.slow), COARSE, GPU], ids=["fine", "coarse", "gpu"]
)
def test_a_causal_mask_needs_no_table(run):
    """And gives what the same mask by spans does, bit by bit where one segment holds all keys."""
    arrays, weights, _, _ = case(4, 64, jnp.float32)
    zeros = np.zeros((len(ROWS), LENGTH), np.int32)
    table = m.Mask.of_spans((zeros, zeros, zeros), jnp.arange(LENGTH, dtype=jnp.int32))
    by = lambda mask: jax.jit(lambda arrays: graded(on_one_device(run, mask), arrays, weights))(arrays)  # noqa: E731
    tiny.assert_close(by(m.Mask("causal")), by(table), 1e-6)


@pytest.mark.parametrize(
    ("run", "cuts"),
    [
        pytest.param(FINE, (0, 64, 130, LENGTH), marks=pytest.mark.slow),
        (GPU_WIDE, (0, 107, LENGTH)),
        (CHUNKS, (0, 64, 130, LENGTH)),
    ],
    ids=["tpu", "gpu", "xla"],
)
def test_keys_in_parts_add_up(run, cuts):
    """What `carry` and the given dq are for: a ring's hops. The parts overlap no query's spans in the same way."""
    (q, k, v), (weight, _), exact, _ = case(4, 64, jnp.float32)
    q, k, v, weight = (x.swapaxes(1, 2) for x in (q, k, v, weight))
    index = jnp.arange(LENGTH, dtype=jnp.int32)
    parts = [(lo, hi, m.Mask.of_spans(spans(), index, lo)) for lo, hi in itertools.pairwise(cuts)]

    @jax.jit
    def forward(q, k, v):
        carry = jnp.zeros(q.shape, jnp.float32), jnp.full(q.shape[:3], -1e30, jnp.float32)
        for lo, hi, mask in parts:
            carry = run.forward(q, k[:, :, lo:hi], v[:, :, lo:hi], mask, carry)
        return carry

    out, lse = forward(q, k, v)
    tiny.assert_close(out.swapaxes(1, 2), exact["output"], 1e-5)
    lse_seen = jnp.where(lse > -1e29, lse, 0.0).swapaxes(1, 2)
    tiny.assert_close(lse_seen, exact["log-sum-exp"], 1e-5)

    @jax.jit
    def backward(q, k, v):
        delta, dq, made = (out * weight).sum(-1), None, []
        total = jnp.where(lse > -1e29, lse, 1e30)
        for lo, hi, mask in parts:
            part = k[:, :, lo:hi], v[:, :, lo:hi]
            dq, *keys = run.backward(q, *part, mask, total, delta, weight, dq)
            made.append(keys)
        return dq, *(jnp.concatenate(x, 2) for x in zip(*made, strict=True))

    whole = on_one_device(run, m.Mask.of_spans(spans(), index))
    loss = lambda *arrays: (whole(*arrays)[0] * weight.swapaxes(1, 2)).sum()  # noqa: E731
    expected = jax.jit(jax.grad(loss, (0, 1, 2)))(*(x.swapaxes(1, 2) for x in (q, k, v)))
    tiny.assert_close(tuple(x.swapaxes(1, 2) for x in backward(q, k, v)), expected, 1e-5)


@pytest.mark.parametrize(
    ("length", "run"),
    [(203, FINE), (256, FINE), pytest.param(256, GPU, marks=pytest.mark.slow)],
    ids=["tpu-padded", "tpu-whole segments", "gpu-whole blocks"],
)
def test_every_key_seen(length, run):
    """A full mask: the softmax over all keys, and its gradients."""
    rng = np.random.default_rng(5)
    draw = lambda heads: jnp.asarray(rng.normal(size=(2, length, heads, 64)), jnp.float32)  # noqa: E731
    arrays, weight = (draw(8), draw(2), draw(2)), draw(8)

    def plain(q, k, v):
        grouped = q.reshape(*q.shape[:2], k.shape[2], -1, q.shape[3])
        weights = jax.nn.softmax(jnp.einsum("btkge,bske->bkgts", grouped, k) * q.shape[3] ** -0.5)
        return jnp.einsum("bkgts,bske->btkge", weights, v).reshape(q.shape)

    def graded_by(attend):
        return jax.jit(jax.value_and_grad(lambda a: (attend(*a) * weight).sum()))(arrays)

    tiny.assert_close(
        graded_by(lambda *a: on_one_device(run, m.Mask("full"))(*a)[0])[1], graded_by(plain)[1], 1e-5
    )
    tiny.assert_close(jax.jit(on_one_device(run, m.Mask("full")))(*arrays)[0], plain(*arrays), 1e-5)


def test_a_causal_block_of_queries_never_runs_past_the_keys():
    """Queries are padded to whole blocks and keys to whole segments, which may be fewer: then there is a table."""
    blocks = Blocks(256, 64, 32, 64, stretch=64, segment=512, ahead=2)
    for length, kind in ((300, "spans"), (512, "causal")):
        b = fit_blocks(blocks, length, length)
        assert m.Mask("causal").of_padded(1, length, length, b.queries, b.segment).kind == kind


def test_what_a_query_may_see_is_what_the_samples_say():
    """`visible` against the definition: within a sample, causally; a branch, also the prompt before it."""
    batch = pack_pairs(tiny.pairs(2, [(5, 4, 3), (3, 6, 2)]), 37, pairs_per_row=2)
    index = jnp.arange(37, dtype=jnp.int32)
    seen = np.asarray(visible(*batch.spans, index, index)[0])
    # Pair 1: its prompt's first 4 tokens stand at 0, its branches from 4 (1 + 4 tokens) and 9 (1 + 3).
    # Pair 2 begins at 13: 2 tokens, then branches from 15 (1 + 6) and 22 (1 + 2). Padding from 25 on.
    expected = np.zeros((37, 37), bool)
    stretches = [
        (0, 4, ()),
        (4, 9, range(4)),
        (9, 13, range(4)),
        (13, 15, ()),
        (15, 22, range(13, 15)),
        (22, 25, range(13, 15)),
    ]
    for lo, hi, trunk in stretches:
        for query in range(lo, hi):
            expected[query, list(trunk)] = True
            expected[query, lo : query + 1] = True
    expected[range(25, 37), range(25, 37)] = True
    np.testing.assert_array_equal(seen, expected)


def test_strips_are_skipped_and_masked_where_they_must_be():
    """The table of a row with a trunk and two branches, by hand: blocks of 4 queries, strips of 2 keys.

    Keys 0 … 7 are the trunk; 8 … 11 and 12 … 15 are branches, of which the first sees all of it, the second keys 2 … 5.
    """
    trunk_lo = np.asarray([[0] * 8 + [0] * 4 + [2] * 4], np.int32)
    trunk_hi = np.asarray([[0] * 8 + [8] * 4 + [6] * 4], np.int32)
    own_lo = np.asarray([[0] * 8 + [8] * 4 + [12] * 4], np.int32)
    mask = m.Mask.of_spans((trunk_lo, trunk_hi, own_lo), jnp.arange(16, dtype=jnp.int32))
    table = np.asarray(m.strip_table(mask, keys=16, block=4, strip=2)).reshape(4, 8)
    seen = np.asarray(visible(trunk_lo, trunk_hi, own_lo, jnp.arange(16), jnp.arange(16))[0])
    for block, row in enumerate(table):
        here = seen[4 * block : 4 * block + 4].reshape(4, 8, 2)
        some, whole = here.any((0, 2)), here.all((0, 2))
        first, second = (range(*row[i : i + 2]) for i in (m.TRUNK, m.OWN))
        assert sorted([*first, *second]) == list(np.flatnonzero(some))
        unmasked = {*range(*row[m.TRUNK_ALL :][:2]), *range(*row[m.OWN_ALL :][:2])} & {*first, *second}
        assert unmasked == set(np.flatnonzero(whole))
    later = m.Mask.of_spans((trunk_lo, trunk_hi, own_lo), jnp.arange(16, dtype=jnp.int32), key_start=8)
    shifted = np.asarray(m.strip_table(later, keys=8, block=4, strip=2)).reshape(4, 8)
    assert [[*range(*r[0:2]), *range(*r[2:4])] for r in shifted] == [[], [], [0, 1], [2, 3]]


def test_a_stored_table_of_zeros_says_that_all_is_seen():
    """Which is what the cycle simulator runs; and a stored table reads as it was."""
    column = m.reader([0] * 16, 1, 5)
    assert [column(i) for i in range(8)] == [0, 5, 5, 5, 0, 5, 5, 5]
    table = jnp.asarray([1, 3, 3, 4, 2, 3, 4, 4] * 2, jnp.int32)
    column = m.reader(m.stored(table, 5), 1, 5)
    assert [int(column(i)) for i in range(8)] == table[8:].tolist()


@pytest.mark.parametrize(
    ("kind", "name", "mib"), [("TPU v4", "v4", 15), ("TPU v5", "v5p", 32), ("TPU v6 lite", "v6e", 32)]
)
def test_blocks_of_the_chip_that_is_compiled_for(kind, name, mib):
    """A v4 has 16 MiB of fast memory."""
    device = jax.sharding.AbstractDevice(device_kind=kind, num_cores=1, platform="tpu")
    mesh = jax.sharding.AbstractMesh((1,), ("x",), (AxisType.Auto,), abstract_device=device)
    with jax.sharding.use_abstract_mesh(mesh):
        assert {way: largest(way) for way in TABLE[name]} == TABLE[name]
        assert vmem_bytes() == mib << 20


@pytest.mark.parametrize(
    ("queries", "keys"), [(1, 1), (128, 128), (700, 700), (3000, 3000), (300, 9000), (5000, 262_144)]
)
def test_block_sizes_fit_the_row(queries, keys):
    for most, size, exact in itertools.product(
        (blocks for ways in TABLE.values() for blocks in ways.values()), (2, 4), (False, True)
    ):
        b = fit_blocks(most, queries, keys, size, exact)
        assert not exact or b.segment % b.stretch == 0
        assert b.queries <= max(128, 2 * queries) and b.segment <= most.segment
        assert -keys % b.segment < b.strip * -(-keys // most.segment)
