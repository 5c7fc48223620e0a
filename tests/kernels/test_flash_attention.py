"""The TPU kernels, interpreted, against dense float32: output, log-sum-exp and all gradients, for every kind of mask.

The kinds are the rows of one batch. In float32 a row may differ by 1e-5 of its largest value. In bfloat16 it may
differ twice as much as dense attention does that rounds its probabilities and their gradients to bfloat16.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from mirothinker_kernels.flash_attention import mask as m
from mirothinker_kernels.flash_attention.reference import visible
from mirothinker_kernels.flash_attention.strips import Blocks
from mirothinker_kernels.flash_attention.tiling import BACKWARD, FORWARD, fitted
from mirothinker_kernels.flash_attention.tpu import flash_attention

from mirothinker_jax.data.packing import pack_pairs, pack_rows

LENGTH = 203  # neither a whole block, nor a strip, nor a tile
KV_HEADS = 2
ROWS = ("causal", "packed", "trunk and branches", "mostly padding", "rows that see nothing")
FINE = Blocks(queries=128, tile=32, strip=64, segment=128)
COARSE = Blocks(queries=256, tile=64, strip=128, segment=256)


def spans(length=LENGTH):
    """int32 [5, length] of the kinds in ROWS, by the packer that training uses; the last is made by hand."""
    rows = [
        pack_rows(tiny.samples(0, [length]), length),
        pack_rows(tiny.samples(1, [length // 2, length // 3, length // 7]), length),
        pack_pairs(tiny.pairs(2, [(70, 20, 11), (40, 9, 30)]), length, pairs_per_row=2),
        pack_rows(tiny.samples(3, [7]), length),
        pack_rows(tiny.samples(0, [length]), length),
    ]
    made = [np.concatenate([getattr(r.spans, name) for r in rows]) for name in rows[0].spans._fields]
    made[2][4, 40:150] = length + 1  # own_lo beyond themselves
    return tuple(made)


def attention(q, k, v, mask, rounding):
    """Dense; `rounding` is applied to what bfloat16 implementations round: probabilities and gradients of scores."""
    batch, length, heads, size = q.shape
    q, k, v = (x.astype(jnp.float32) for x in (q, k, v))
    grouped = q.reshape(batch, length, k.shape[2], -1, size)
    scores = rounding(jnp.einsum("btkge,bske->bkgts", grouped, k)) * size**-0.5
    index = jnp.arange(length, dtype=jnp.int32)
    seen = visible(*mask, index, index)[:, None, None]
    some = seen.any(-1, keepdims=True)
    scores = jnp.where(seen, scores, -1e30)
    lse = jax.nn.logsumexp(scores, axis=-1, keepdims=True)
    weights = rounding(jnp.where(seen, jnp.exp(scores - jnp.where(some, lse, 0.0)), 0.0))
    out = jnp.einsum("bkgts,bske->btkge", weights, v).reshape(batch, length, heads, size)
    lse = jnp.moveaxis(jnp.where(some, lse, 0.0)[..., 0], 3, 1).reshape(batch, length, heads)
    return out, lse


@jax.custom_vjp
def to_bfloat16(x):
    return x.astype(jnp.bfloat16).astype(jnp.float32)


to_bfloat16.defvjp(lambda x: (to_bfloat16(x), None), lambda _, g: (to_bfloat16(g),))


def graded(run, arrays, weights):
    def loss(arrays):
        out, lse = run(*arrays)
        lse = jnp.where(lse > -1e29, lse, 0.0)
        return (out.astype(jnp.float32) * weights[0]).sum() + (lse * weights[1]).sum(), (out, lse)

    gradients, results = jax.grad(loss, has_aux=True)(arrays)
    return dict(zip(("output", "log-sum-exp", "dq", "dk", "dv"), (*results, *gradients), strict=True))


@functools.cache
def case(groups, size, dtype):
    """Inputs, weights that make a scalar of the results, and what dense attention makes of them."""
    rng = np.random.default_rng(groups * size)
    shapes = [(len(ROWS), LENGTH, n, size) for n in (KV_HEADS * groups, KV_HEADS, KV_HEADS)]
    arrays = [jnp.asarray(rng.normal(size=s), dtype) for s in shapes]
    weights = [jnp.asarray(rng.normal(size=s), jnp.float32) for s in (shapes[0], shapes[0][:3])]
    dense = lambda rounding: jax.jit(  # noqa: E731
        lambda arrays: graded(functools.partial(attention, mask=spans(), rounding=rounding), arrays, weights)
    )(arrays)
    exact, rounded = dense(lambda x: x), dense(to_bfloat16)
    return arrays, weights, exact, rounded


def assert_close(got, exact, rounded, dtype):
    for name, value in got.items():
        assert value.dtype == (jnp.float32 if name == "log-sum-exp" else dtype)
        value, expected, other = (np.asarray(x[name], np.float32) for x in (got, exact, rounded))
        if dtype == jnp.bfloat16 and name != "log-sum-exp":
            other = np.asarray(jnp.asarray(other, dtype), np.float32)
        for row, kind in enumerate(ROWS):
            apart = np.abs(value[row] - expected[row]).max()
            allowed = 1e-5 * np.abs(expected[row]).max()
            if dtype == jnp.bfloat16:
                allowed += 2 * np.abs(other[row] - expected[row]).max()
            assert apart <= allowed, f"{name} of {kind!r}: {apart:.3g} apart, allowed {allowed:.3g}"


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(
    ("groups", "size", "blocks"),
    [(groups, size, FINE) for groups in (1, 4, 8) for size in (64, 128)]
    + [(4, 64, COARSE), (1, 128, COARSE)],
)
def test_spans_against_dense_float32(groups, size, blocks, dtype):
    arrays, weights, exact, rounded = case(groups, size, dtype)
    mask = m.Mask.of_spans(spans(), jnp.arange(LENGTH, dtype=jnp.int32))
    run = lambda *a: flash_attention(*a, mask, blocks, blocks, True)  # noqa: E731
    got = jax.jit(lambda arrays: graded(run, arrays, weights))(arrays)
    assert_close(got, exact, rounded, dtype)


@pytest.mark.parametrize("blocks", [FINE, COARSE], ids=["fine", "coarse"])
def test_a_causal_mask_needs_no_table(blocks):
    """And gives what the same mask by spans does, bit by bit where one segment holds all keys."""
    arrays, weights, _, _ = case(4, 64, jnp.float32)
    zeros = np.zeros((len(ROWS), LENGTH), np.int32)
    table = m.Mask.of_spans((zeros, zeros, zeros), jnp.arange(LENGTH, dtype=jnp.int32))
    run = lambda mask: jax.jit(  # noqa: E731
        lambda arrays: graded(lambda *a: flash_attention(*a, mask, blocks, blocks, True), arrays, weights)
    )(arrays)
    causal, spelled = run(m.Mask("causal")), run(table)
    tiny.assert_close(causal, spelled, 1e-6)


def test_every_key_seen_and_results_that_merge():
    """Two halves of the keys, apart, merged by their log-sum-exp, are the whole."""
    (q, k, v), _, _, _ = case(4, 64, jnp.float32)
    q, k, v = q[:1, :128], k[:1], v[:1]
    keys = lambda x, lo, hi: x[:, lo:hi]  # noqa: E731
    full = lambda lo, hi: flash_attention(  # noqa: E731
        q, keys(k, lo, hi), keys(v, lo, hi), m.Mask("full"), FINE, FINE, True
    )
    whole, lse = full(0, 192)
    (a, lse_a), (b, lse_b) = full(0, 64), full(64, 192)
    merged = jnp.logaddexp(lse_a, lse_b)
    out = a * jnp.exp(lse_a - merged)[..., None] + b * jnp.exp(lse_b - merged)[..., None]
    np.testing.assert_allclose(merged, lse, atol=1e-5)
    np.testing.assert_allclose(out, whole, atol=1e-5)


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


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (128, 128), (300, 9000), (5000, 262_144)])
def test_block_sizes_fit_the_row(queries, keys):
    for largest in (FORWARD, BACKWARD):
        b = fitted(largest, queries, keys)
        assert b.queries <= max(128, 2 * queries) and b.segment <= largest.segment
        assert -keys % b.segment < b.strip * -(-keys // largest.segment)
