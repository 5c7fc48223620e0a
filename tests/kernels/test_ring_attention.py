"""Attention of 8 devices that share a row, by every strategy, against dense float32 on one.

Chunks of 13 tokens: neither a tile nor a block. Tolerances are those of attention_cases.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from attention_cases import assert_close, case, gpu_kernels, kernels_of, spans
from jax.sharding import PartitionSpec
from mirothinker_kernels.flash_attention import blockwise, tpu
from mirothinker_kernels.flash_attention.mask import Mask
from mirothinker_kernels.flash_attention.reference import visible
from mirothinker_kernels.flash_attention.strips import Blocks
from mirothinker_kernels.ring_attention.ring import Ring, attention
from mirothinker_kernels.ring_attention.strategies import (
    GATHER,
    RING,
    Strategy,
    choose,
    context_attention,
)
from mirothinker_kernels.ring_attention.zigzag import Zigzag

from mirothinker_jax.parallel.context import zigzag

FP32, BF16 = jnp.float32, jnp.bfloat16
DEVICES, CHUNK = 8, 13
LENGTH = 2 * DEVICES * CHUNK
XLA = kernels_of(blockwise)
BLOCKS = Blocks(queries=128, chunk=128, tile=32, strip=32, stretch=64, segment=128, ahead=1)
TPU = kernels_of(tpu, largest=BLOCKS, interpret=True)
TRITON = gpu_kernels(32, 64)
STRATEGIES = [Strategy(keys, exchange) for keys in (RING, GATHER) for exchange in (1, 2, 4, 8)]


def over_devices(strategy, kernels):
    """(q [B, T, H, E], k, v) → output, over 8 devices; rows go in and come out in their own order."""
    rows = PartitionSpec(None, "context")
    layout, order = Zigzag(DEVICES, CHUNK), zigzag(LENGTH, DEVICES)

    def local(q, k, v, mask):
        q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
        places = layout.places(jax.lax.axis_index("context"))
        mask = Mask.of_spans(mask, places).rows
        return context_attention(q, k, v, mask, strategy, "context", kernels).swapaxes(1, 2)

    sharded = jax.shard_map(local, in_specs=rows, out_specs=rows, check_vma=False)

    def run(*arrays):
        mask = tuple(jnp.asarray(s) for s in spans(LENGTH))
        out = sharded(*(x[:, order] for x in arrays), tuple(s[:, order] for s in mask))
        return out[:, np.argsort(order)]

    return run


def check(strategy, kernels, groups, size, dtype):
    arrays, (weight, _), exact, rounded = case(groups, size, dtype, LENGTH, with_lse=False)
    run = over_devices(strategy, kernels)

    def loss(arrays):
        out = run(*arrays)
        return (out.astype(jnp.float32) * weight).sum(), out

    with jax.set_mesh(tiny.mesh(context=DEVICES)):
        gradients, out = jax.jit(jax.grad(loss, has_aux=True))(arrays)
    got = dict(zip(("output", "dq", "dk", "dv"), (out, *gradients), strict=True))
    assert_close(got, exact, rounded, dtype)


@pytest.mark.parametrize(
    ("strategy", "dtype"),
    list(zip(STRATEGIES, 2 * [FP32, BF16, BF16, FP32], strict=True)),  # each way to meet keys in both
    ids=[f"{s.keys}-ulysses-{s.ulysses}" for s in STRATEGIES],
)
def test_every_strategy_gives_what_one_device_does(strategy, dtype):
    """16 query heads and 2 key/value heads: an exchange among more devices than key/value heads repeats those."""
    check(strategy, XLA, 8, 64, dtype)


@pytest.mark.parametrize(
    ("strategy", "groups", "dtype"),
    [
        pytest.param(Strategy(RING), 4, FP32, id="ring-4-fp32"),
        pytest.param(Strategy(RING), 1, BF16, id="ring-1-bf16", marks=pytest.mark.slow),
        pytest.param(Strategy(GATHER), 4, BF16, id="all-gather-4-bf16", marks=pytest.mark.slow),
        pytest.param(Strategy(GATHER), 1, FP32, id="all-gather-1-fp32", marks=pytest.mark.slow),
    ],
)
def test_the_tpu_kernels_go_round(strategy, groups, dtype):
    """And go on from the first half of the gathered keys to the second."""
    check(strategy, TPU, groups, 128, dtype)


# Named so that `-k gpu`, on a GPU, does not select them: they need eight devices.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "run", "groups", "size", "dtype"),
    [
        pytest.param(Strategy(RING, 2), TPU, 8, 64, FP32, id="tpu-ring-ulysses-2"),
        pytest.param(Strategy(GATHER, 4), TPU, 8, 128, BF16, id="tpu-all-gather-ulysses-4"),
        pytest.param(Strategy(GATHER, 8), TPU, 4, 64, FP32, id="tpu-ulysses-8"),
        pytest.param(Strategy(RING), TRITON, 4, 64, BF16, id="triton-ring"),
        pytest.param(Strategy(GATHER), TRITON, 1, 128, FP32, id="triton-all-gather"),
        pytest.param(Strategy(RING, 4), TRITON, 8, 64, BF16, id="triton-ring-ulysses-4"),
    ],
)
def test_so_do_they_with_heads_exchanged_and_triton_s(strategy, run, groups, size, dtype):
    check(strategy, run, groups, size, dtype)


def test_the_tpu_kernels_go_on_from_part_to_part_of_the_keys():
    """Parts of several segments of keys, none of them padded, give what the row gives as a whole."""
    q, k, v = (jax.random.normal(jax.random.key(i), (1, heads, 512, 64)) for i, heads in enumerate((4, 2, 2)))
    mask = Mask.of_spans(tuple(jnp.asarray(s) for s in spans(512)), jnp.arange(512))
    k, v = (jnp.broadcast_to(x, (mask.rows.shape[0], *x.shape[1:])) for x in (k, v))
    q = jnp.broadcast_to(q, (mask.rows.shape[0], *q.shape[1:]))

    def result(keys, values):
        out, backward = jax.vjp(lambda *arrays: attention(*arrays, mask, Ring(TPU))[0], q, keys, values)
        dq, dk, dv = backward(jnp.cos(out))
        return [out, dq, *(jnp.concatenate(jax.tree.leaves(x), axis=2) for x in (dk, dv))]

    halves = [tuple(jnp.split(x, 2, axis=2)) for x in (k, v)]
    for got, expected in zip(result(*halves), result(k, v), strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_what_a_device_sees_of_another_is_what_the_row_says():
    """`Zigzag.mask` against the row's own visibility, for every pair of devices."""
    layout, order = Zigzag(4, 5), zigzag(40, 4)
    mask = tuple(s[:, :40] for s in spans(208))
    mask[2][4, 10:20] = 50
    index = jnp.arange(40, dtype=jnp.int32)
    seen = np.asarray(visible(*mask, index, index))
    for queries in range(4):
        mine = np.asarray(layout.places(queries))
        np.testing.assert_array_equal(mine, order.reshape(4, -1)[queries])
        rows = Mask.of_spans(tuple(jnp.asarray(s[:, mine]) for s in mask), mine).rows
        for keys in range(4):
            here = layout.mask(rows, keys).rows
            trunk_lo, trunk_hi, own_lo, own = (np.asarray(here)[:, i, :, None] for i in range(4))
            key = np.arange(10)
            got = ((trunk_lo <= key) & (key < trunk_hi)) | ((own_lo <= key) & (key <= own))
            np.testing.assert_array_equal(got, seen[:, mine][:, :, np.asarray(layout.places(keys))])


def test_devices_have_the_same_work_under_a_causal_mask():
    order = zigzag(1600, 8).reshape(8, -1)
    work = (order + 1).sum(1)
    assert work.max() / work.mean() <= 1.02


def test_an_exchange_that_heads_do_not_allow_is_refused():
    with pytest.raises(ValueError, match="ulysses=8 divides not both 8 devices of 'context' and 4 heads"):
        check(Strategy(RING, 8), XLA, 2, 64, jnp.float32)


@pytest.mark.parametrize(
    ("tokens", "heads", "kv_heads", "devices", "chosen"),
    [
        (16384, 32, 8, 16, Strategy(RING)),
        (4096, 32, 8, 64, Strategy(RING, 8)),
        (1024, 32, 8, 64, Strategy(GATHER)),  # nor would a ring of eight groups hide
        (1024, 32, 4, 8, Strategy(GATHER)),
        (4096, 64, 8, 8, Strategy(GATHER)),  # 112 heads of a token are gathered, 252 would be exchanged
        (4096, 64, 8, 32, Strategy(RING, 8)),
        (2048, 8, 8, 8, Strategy(GATHER, 8)),  # 112 and 28, and nothing is left to go round
        (4096, 12, 2, 16, Strategy(RING, 2)),
        (24576, 8, 8, 6, Strategy(RING, 2)),
        (1024, 14, 7, 16, Strategy(GATHER)),
    ],
)
def test_small_chunks_exchange_heads_where_that_pays_or_are_gathered(
    tokens, heads, kv_heads, devices, chosen
):
    assert choose(tokens, heads, kv_heads, devices) == chosen


def test_what_is_given_stays():
    assert choose(1024, 32, 8, 64, keys=RING) == Strategy(RING)
    assert choose(1024, 32, 8, 64, keys=GATHER) == Strategy(GATHER)
    assert choose(1024, 32, 8, 64, ulysses=1) == Strategy(GATHER)
    assert choose(1024, 32, 8, 64, keys=RING, ulysses=4) == Strategy(RING, 4)
    assert choose(65536, 32, 8, 8, ulysses=8) == Strategy(GATHER, 8)
