"""Routed feed-forward blocks against every expert on every token, masked: values, gradients, and where tokens go."""

import functools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays
from mirothinker_kernels.grouped_matmul import outer
from mirothinker_kernels.grouped_matmul.layout import make_layout
from mirothinker_kernels.grouped_matmul.reference import dense_masked
from mirothinker_kernels.grouped_matmul.tiles import tiled
from mirothinker_kernels.grouped_matmul.tpu import grouped

FP32 = 1e-5
HOWS = [pytest.param(tiled, id="tiled"), pytest.param(functools.partial(grouped, interpret=True), id="tpu")]
jitted_layout = jax.jit(make_layout, static_argnums=(1, 2))


def operands(tokens, k, experts, hidden=12, ffn=20, seed=0, dtype=np.float32):
    """x, chosen (distinct experts of each token), weights, gate, up, down."""
    rng = np.random.default_rng(seed)
    chosen = np.stack([rng.permutation(experts)[:k] for _ in range(tokens)]).astype(np.int32)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)  # noqa: E731
    kernels = (draw(experts, hidden, ffn) / 4, draw(experts, hidden, ffn) / 4, draw(experts, ffn, hidden) / 4)
    return draw(tokens, hidden), chosen, jnp.asarray(rng.random((tokens, k)), jnp.float32), *kernels


def laid_out(how, tile, x, chosen, weights, gate, up, down):
    return how(x, weights, gate, up, down, make_layout(chosen, gate.shape[0], tile))


def gradients(f, x, chosen, weights, *kernels):
    """Of a sum with random weights, for everything that is a number."""
    mix = jnp.asarray(np.random.default_rng(9).normal(size=x.shape), jnp.float32)
    loss = lambda x, weights, *kernels: (f(x, chosen, weights, *kernels).astype(jnp.float32) * mix).sum()  # noqa: E731
    return jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3, 4)))(x, weights, *kernels)


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize(
    ("tokens", "k", "experts", "tile", "ffn"),
    [(24, 2, 8, 8, 20), (37, 3, 5, 4, 20), (5, 1, 16, 8, 128), (1, 4, 4, 8, 20)],
)
def test_values_and_gradients_are_the_reference_s(how, tokens, k, experts, tile, ffn):
    """Also where the experts' inner size is whole lanes of a TPU."""
    inputs = operands(tokens, k, experts, ffn=ffn)
    run = functools.partial(laid_out, how, tile)
    tiny.assert_close(jax.jit(run)(*inputs), dense_masked(*inputs), FP32)
    tiny.assert_close(gradients(run, *inputs), gradients(dense_masked, *inputs), FP32)


@pytest.mark.parametrize("how", HOWS)
def test_experts_of_another_device_give_nothing(how):
    """Choices out of range, on both sides: no value, no gradient."""
    x, chosen, weights, *kernels = operands(20, 3, 8)
    shifted = chosen - 3
    kept = [kernel[:4] for kernel in kernels]
    run = functools.partial(laid_out, how, 8)
    tiny.assert_close(run(x, shifted, weights, *kept), dense_masked(x, shifted, weights, *kept), FP32)
    tiny.assert_close(
        gradients(run, x, shifted, weights, *kept), gradients(dense_masked, x, shifted, weights, *kept), FP32
    )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["fp32", "bf16"])
def test_weight_gradients_in_several_blocks(monkeypatch, dtype):
    """Two by three blocks of the weights, tiles of padding, and experts without a token."""
    monkeypatch.setattr(outer, "BLOCK", 128)
    x, chosen, _, *_ = operands(40, 2, 4, hidden=256)
    g = jnp.asarray(np.random.default_rng(3).normal(size=(80, 384)), jnp.float32)
    layout = make_layout(chosen + 2, 8, 16)
    at = layout.source
    rows = x.at[at // 2].get(mode="clip").astype(dtype)  # as to_places; where there is no token, g is zero
    sums = g.at[at].get(mode="fill", fill_value=0).astype(dtype)
    got = outer.outer_sums(rows, sums, layout, 8, interpret=True)
    hit = np.repeat(np.asarray(layout.expert), 16)[:, None] == np.arange(8)
    exact = jnp.einsum(
        "pd,pf,px->xdf", rows.astype(jnp.float32), sums.astype(jnp.float32), hit.astype(np.float32)
    )
    assert got.dtype == dtype and np.all(np.asarray(got[jnp.asarray([0, 1, 6, 7])], np.float32) == 0)
    tiny.assert_close(got.astype(jnp.float32), exact, FP32 if dtype == jnp.float32 else 2**-8)


def test_every_token_on_one_expert_is_kept():
    """The load that a capacity would cut: all on expert 2."""
    x, _, weights, *kernels = operands(50, 1, 4)
    chosen = np.full((50, 1), 2, np.int32)
    out = laid_out(tiled, 8, x, chosen, weights, *kernels)
    tiny.assert_close(out, dense_masked(x, chosen, weights, *kernels), FP32)
    assert np.all(np.any(np.asarray(out) != 0, axis=1))


def test_bfloat16_is_within_twice_its_own_rounding():
    inputs = operands(64, 2, 8)
    half = [v if v.dtype != jnp.float32 else v.astype(jnp.bfloat16) for v in map(jnp.asarray, inputs)]
    half[2] = inputs[2]
    exact = dense_masked(*(v.astype(jnp.float32) if v.dtype == jnp.bfloat16 else v for v in half))
    out = laid_out(tiled, 8, *half)
    assert out.dtype == jnp.bfloat16
    worst = np.abs(np.asarray(out, np.float32) - np.asarray(exact)).max()
    assert worst <= 2 * 2**-8 * np.abs(np.asarray(exact)).max()


@given(
    st.sampled_from([(1, 1), (9, 2), (30, 3)]).flatmap(
        lambda shape: arrays(np.int32, shape, elements=st.integers(-2, 6))
    ),
    st.sampled_from([(1, 4), (3, 1), (5, 8)]),
)
@settings(max_examples=60)
def test_each_choice_has_one_place_among_its_expert_s(chosen, sizes):
    experts, tile = sizes
    layout = jax.tree.map(np.asarray, jitted_layout(chosen, experts, tile))
    flat, place = chosen.reshape(-1), layout.place.reshape(-1)
    places = layout.source.shape[0]
    known = (flat >= 0) & (flat < experts)
    assert np.all(place[~known] == places) and len(set(place[known])) == known.sum()
    assert np.array_equal(layout.source[place[known]], np.flatnonzero(known))
    assert np.all(layout.expert[place[known] // tile] == flat[known])
    assert (layout.source < flat.size).sum() == known.sum()
    assert np.all(place[known] < layout.tiles * tile)
    assert set(layout.expert) == set(range(experts)), "each has a tile, if only of padding"
    held = np.bincount(flat[known], minlength=experts)
    assert layout.tiles == (-(-held // tile)).sum()
    assert np.array_equal(layout.expert[: layout.tiles], np.sort(layout.expert[: layout.tiles]))
