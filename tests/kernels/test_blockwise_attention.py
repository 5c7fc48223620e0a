"""Blockwise attention against dense float32: output, log-sum-exp and all gradients.

The four kinds of masks are the four rows of one batch, so that a compilation serves them all.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from mirothinker_kernels.flash_attention.blockwise import blockwise_attention
from mirothinker_kernels.flash_attention.reference import reference_attention, visible

from mirothinker_jax.data.packing import pack_pairs, pack_rows

KV_HEADS, SIZE = 2, 8
ROWS = ("causal", "packed", "trunk and branches", "padding")
# A row may differ by this much of its largest value: rounding of the inputs' dtype, a few times over.
TOLERANCE = {jnp.float32: 2e-6, jnp.bfloat16: 2e-2}


def spans(length):
    """Spans int32 [4, length] of the kinds in ROWS, made by the packer that training uses."""
    rows = [
        pack_rows(tiny.samples(0, [length]), length),
        pack_rows(tiny.samples(1, [length // 2, length // 3, length - length // 2 - length // 3]), length),
        pack_pairs(tiny.pairs(2, [(5, 4, 3), (3, 6, 2)]), length, pairs_per_row=2),
        pack_rows(tiny.samples(3, [7]), length),
    ]
    return tuple(np.concatenate([getattr(r.spans, name) for r in rows]) for name in rows[0].spans._fields)


def inputs(length, groups, dtype, seed=0):
    """q, k, v and the weights that make scalars of the output and of the log-sum-exp."""
    rng = np.random.default_rng(seed)
    heads = KV_HEADS * groups
    shapes = [(4, length, heads, SIZE), (4, length, KV_HEADS, SIZE), (4, length, KV_HEADS, SIZE)]
    q, k, v = (jnp.asarray(rng.normal(size=s), dtype) for s in shapes)
    out_weight = jnp.asarray(rng.normal(size=shapes[0]), jnp.float32)
    lse_weight = jnp.asarray(rng.normal(size=shapes[0][:3]), jnp.float32)
    return (q, k, v), (out_weight, lse_weight)


def scalar(out, lse, weights):
    return (out.astype(jnp.float32) * weights[0]).sum() + (lse * weights[1]).sum()


@functools.cache
def dense(length, groups):
    """Jitted: output, log-sum-exp and gradients of q, k, v, by the reference and a plain logsumexp."""
    mask = spans(length)

    def run(arrays, weights):
        def loss(arrays):
            q, k, v = (x.astype(jnp.float32) for x in arrays)
            grouped = q.reshape(*q.shape[:2], KV_HEADS, groups, SIZE)
            scores = jnp.einsum("btkge,bske->btkgs", grouped, k) * SIZE**-0.5
            index = jnp.arange(length, dtype=jnp.int32)
            seen = visible(*mask, index, index)[:, :, None, None]
            lse = jax.nn.logsumexp(jnp.where(seen, scores, -jnp.inf), axis=-1)
            lse = lse.reshape(q.shape[:3])
            out = reference_attention(q, k, v, mask)
            return scalar(out, lse, weights), (out, lse)

        gradients, (out, lse) = jax.grad(loss, has_aux=True)(arrays)
        return out, lse, gradients

    return jax.jit(run)


def assert_rows_close(name, got, expected, tolerance):
    got, expected = np.asarray(got, np.float32), np.asarray(expected, np.float32)
    for row, kind in enumerate(ROWS):
        apart = np.abs(got[row] - expected[row]).max()
        assert apart <= tolerance * np.abs(expected[row]).max(), f"{name} of row {kind!r}: {apart} apart"


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize(
    ("dtype", "length", "chunk"),
    [
        (jnp.float32, 37, 16),  # neither the length nor the last chunk is a round number
        (jnp.float32, 37, 128),  # one chunk
        (jnp.float32, 32, 16),
        (jnp.bfloat16, 37, 16),
    ],
    ids=["fp32-odd", "fp32-one-chunk", "fp32-even", "bf16-odd"],
)
def test_forward_and_gradients_against_the_reference(groups, dtype, length, chunk):
    arrays, weights = inputs(length, groups, dtype)
    mask = spans(length)

    @jax.jit
    def run(arrays):
        def loss(arrays):
            out, lse = blockwise_attention(*arrays, mask, None, chunk)
            return scalar(out, lse, weights), (out, lse)

        gradients, (out, lse) = jax.grad(loss, has_aux=True)(arrays)
        return out, lse, gradients

    out, lse, gradients = run(arrays)
    expected_out, expected_lse, expected_gradients = dense(length, groups)(arrays, weights)
    assert out.dtype == dtype and lse.dtype == jnp.float32
    assert [g.dtype for g in gradients] == [dtype] * 3
    tolerance = TOLERANCE[dtype]
    assert_rows_close("output", out, expected_out, tolerance)
    assert_rows_close("log-sum-exp", lse, expected_lse, tolerance)
    for name, got, expected in zip("qkv", gradients, expected_gradients, strict=True):
        assert_rows_close(f"gradient of {name}", got, expected, 2 * tolerance)


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


def test_a_slice_of_queries_equals_that_slice_of_the_whole():
    """With `query_start`, as a device of a context mesh calls it: values and, summed, gradients."""
    length, part = 34, 17
    arrays, weights = inputs(length, 2, jnp.float32)
    mask = spans(length)

    @jax.jit
    def whole(arrays):
        def loss(arrays):
            out, lse = blockwise_attention(*arrays, mask, None, 16)
            return scalar(out, lse, weights), (out, lse)

        return jax.value_and_grad(loss, has_aux=True)(arrays)

    @jax.jit
    def sliced(arrays, start):
        def cut(x):
            return jax.lax.dynamic_slice_in_dim(x, start, part, axis=1)

        def loss(arrays):
            q, k, v = arrays
            cut_mask = tuple(cut(jnp.asarray(s)) for s in mask)
            out, lse = blockwise_attention(cut(q), k, v, cut_mask, start, 9)
            return scalar(out, lse, tuple(cut(w) for w in weights)), (out, lse)

        return jax.value_and_grad(loss, has_aux=True)(arrays)

    (_, (out, lse)), gradients = whole(arrays)
    parts = [sliced(arrays, jnp.int32(start)) for start in range(0, length, part)]
    tiny.assert_close(jnp.concatenate([o for (_, (o, _)), _ in parts], 1), out, 2e-6)
    tiny.assert_close(jnp.concatenate([s for (_, (_, s)), _ in parts], 1), lse, 2e-6)
    summed = jax.tree.map(lambda *g: sum(g[1:], g[0]), *(g for _, g in parts))
    tiny.assert_close(summed, gradients, 4e-6)
