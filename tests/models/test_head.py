"""The chunked head against a dense log-softmax in float64: values, entropies and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mirothinker_jax.models import head
from mirothinker_jax.parallel.sharding import batch_sharding

HIDDEN, ROWS, LENGTH = 16, 4, 12


def inputs(vocab, seed=0, scale=0.5):
    """Logits have a standard deviation of 4 · scale. Where they reach 17, as at 150,000 tokens and a scale of 0.5,
    float32 rounds them by 1e-6, and so the probabilities: even dense heads of other shapes differ by more."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(ROWS, LENGTH, HIDDEN)).astype(np.float32)
    weight = (rng.normal(size=(vocab, HIDDEN)) * scale).astype(np.float32)
    targets = rng.integers(0, vocab, (ROWS, LENGTH)).astype(np.int32)
    cotangents = rng.normal(size=(2, ROWS, LENGTH)).astype(np.float32)
    return hidden, weight, targets, cotangents


def wanted(count, seed=1):
    flat = np.zeros(ROWS * LENGTH, bool)
    flat[np.random.default_rng(seed).permutation(flat.size)[:count]] = True
    return flat.reshape(ROWS, LENGTH)


def dense(hidden, weight, targets, mask, cotangents):
    """(log-probs, entropies, gradient of hidden, gradient of weight), float64 by hand.

    The loss is Σ a · log-prob + b · entropy over wanted positions; d log p_t/dz = onehot − p, and
    d entropy/dz = −p · (log p + entropy).
    """
    hidden, weight = hidden.astype(np.float64), weight.astype(np.float64)
    logits = hidden @ weight.T
    logits -= logits.max(-1, keepdims=True)
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    probs = np.exp(logs)
    onehot = targets[..., None] == np.arange(len(weight))
    entropies = -(probs * logs).sum(-1)
    a, b = (c[..., None] * mask[..., None] for c in cotangents)
    d_logits = a * (onehot - probs) - b * probs * (logs + entropies[..., None])
    logprobs = (logs * onehot).sum(-1)
    return (
        logprobs * mask,
        entropies * mask,
        d_logits @ weight,
        np.einsum("btv,btd->vd", d_logits, hidden),
    )


@jax.jit
def dense_float32(hidden, weight, targets, mask, cotangents):
    """As `dense`, by jax.grad in float32."""

    def loss(hidden, weight):
        logs = jax.nn.log_softmax(jnp.einsum("btd,vd->btv", hidden, weight))
        logprobs = jnp.where(mask, jnp.take_along_axis(logs, targets[..., None], -1)[..., 0], 0.0)
        entropies = jnp.where(mask, -(jnp.exp(logs) * logs).sum(-1), 0.0)
        return (cotangents[0] * logprobs + cotangents[1] * entropies).sum(), (logprobs, entropies)

    gradients, values = jax.grad(loss, argnums=(0, 1), has_aux=True)(hidden, weight)
    return *values, *gradients


def chunked():
    """A jitted (hidden, weight, targets, mask, cotangents) → as `dense`."""

    @jax.jit
    def run(hidden, weight, targets, mask, cotangents):
        def loss(hidden, weight):
            logprobs, entropies = head.logprobs_and_entropy(hidden, weight, targets, mask)
            return (cotangents[0] * logprobs + cotangents[1] * entropies).sum(), (logprobs, entropies)

        gradients, values = jax.grad(loss, argnums=(0, 1), has_aux=True)(hidden, weight)
        return *values, *gradients

    return run


def assert_dense(run, hidden, weight, targets, mask, cotangents, reference=dense):
    expected = reference(hidden, weight, targets, mask, cotangents)
    got = run(hidden, weight, targets, mask, cotangents)
    names = ("log-probs", "entropies", "d hidden", "d weight")
    tiny.assert_close(dict(zip(names, got, strict=True)), dict(zip(names, expected, strict=True)), 1e-6)
    assert not np.asarray(got[0])[~mask].any() and not np.asarray(got[1])[~mask].any()


@pytest.fixture(scope="module")
def one_chunk():
    return chunked()


@pytest.fixture(scope="module")
def small_chunks():
    """Chunks of 16 positions: 48 positions are three of them; parts of 16 tokens, the last of which begins early."""
    compiled = chunked()

    def run(*arguments):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(head, "POSITIONS", 16)
            patch.setattr(head, "TOKENS", 16)
            return compiled(*arguments)

    return run


@pytest.mark.parametrize("count", [0, 1, 17, ROWS * LENGTH])
def test_dense_log_softmax_in_one_chunk(one_chunk, count):
    hidden, weight, targets, cotangents = inputs(vocab=37)
    assert_dense(one_chunk, hidden, weight, targets, wanted(count), cotangents)


@pytest.mark.parametrize("count", [0, 15, 16, 17, 32, ROWS * LENGTH])
def test_dense_log_softmax_in_chunks_of_16(small_chunks, count):
    hidden, weight, targets, cotangents = inputs(vocab=37)
    assert_dense(small_chunks, hidden, weight, targets, wanted(count), cotangents)


def test_positions_that_do_not_fill_the_last_chunk(small_chunks):
    """3 × 7 = 21 positions, of which the second chunk holds five."""
    hidden, weight, targets, cotangents = inputs(vocab=37)
    hidden, targets, cotangents = hidden[:3, :7], targets[:3, :7], cotangents[:, :3, :7]
    for mask in (np.ones((3, 7), bool), np.arange(21).reshape(3, 7) % 4 == 0):
        assert_dense(small_chunks, hidden, weight, targets, mask, cotangents)


@pytest.mark.parametrize("vocab", [997, 151_643, 151_936])
def test_dense_log_softmax_with_a_large_or_odd_vocabulary(vocab, monkeypatch):
    """48 positions in chunks of 20: two or three chunks, the last of which is never full."""
    monkeypatch.setattr(head, "POSITIONS", 20)
    hidden, weight, targets, cotangents = inputs(vocab, scale=0.25)
    targets[0, :2] = 0, vocab - 1
    run = chunked()
    for count in (29, 41, ROWS * LENGTH):
        assert_dense(run, hidden, weight, targets, wanted(count, seed=count), cotangents, dense_float32)


def test_what_is_not_wanted_may_be_anything(one_chunk):
    """NaN in a hidden state that is not wanted reaches neither a value nor a gradient."""
    hidden, weight, targets, cotangents = inputs(vocab=37)
    mask = wanted(10)
    poisoned = np.where(mask[..., None], hidden, np.nan).astype(np.float32)
    clean = one_chunk(hidden, weight, targets, mask, cotangents)
    tiny.assert_equal(one_chunk(poisoned, weight, targets, mask, cotangents), clean)


def test_bfloat16_products_accumulate_in_float32(one_chunk):
    """Against the dense computation on the same rounded inputs: no worse than rounding the gradients."""
    hidden, weight, targets, cotangents = inputs(vocab=37)
    mask = wanted(30)
    rounded = [np.asarray(jnp.asarray(x, jnp.bfloat16), np.float32) for x in (hidden, weight)]
    got = one_chunk(jnp.asarray(hidden, jnp.bfloat16), jnp.asarray(weight), targets, mask, cotangents)
    assert [x.dtype for x in got] == [jnp.float32, jnp.float32, jnp.bfloat16, jnp.float32]
    expected = dense(rounded[0], rounded[1], targets, mask, cotangents)
    tiny.assert_close(got[:2], expected[:2], 1e-6)
    tiny.assert_close(got[2:], expected[2:], 2e-2)


@pytest.mark.parametrize(
    ("sizes", "vocab"),
    [
        ({"tensor": 2, "fsdp": 2, "context": 2}, 38),
        ({"data": 2, "context": 4}, 37),
    ],
    ids=["tensor-fsdp-context", "data-context"],
)
def test_dense_log_softmax_on_a_mesh(sizes, vocab, monkeypatch):
    monkeypatch.setattr(head, "POSITIONS", 5)
    monkeypatch.setattr(head, "TOKENS", 7)
    mesh = tiny.mesh(**sizes)
    hidden, weight, targets, cotangents = inputs(vocab)
    with jax.set_mesh(mesh):
        run = chunked()
        # The last one: some devices have nothing to do, so the loops' trip counts differ.
        first_half = np.broadcast_to(np.arange(LENGTH) < LENGTH // 2, (ROWS, LENGTH))
        for mask in (wanted(0), wanted(29), first_half):
            rows = jax.device_put((targets, mask), batch_sharding(mesh))
            expected = dense(hidden, weight, targets, mask, cotangents)
            got = run(hidden, weight, *rows, cotangents)
            tiny.assert_close(got, expected, 1e-6)


@pytest.mark.parametrize("sizes", [{"tensor": 8}, {"tensor": 4, "fsdp": 2}], ids=["tensor", "tensor-fsdp"])
def test_dense_log_softmax_with_a_large_vocabulary_split_over_tensor(sizes, monkeypatch):
    """Chunks of 20 of each device's 48 or 24 positions, over its own part of the vocabulary."""
    vocab = 151_936
    monkeypatch.setattr(head, "POSITIONS", 20)
    mesh = tiny.mesh(**sizes)
    hidden, weight, targets, cotangents = inputs(vocab, scale=0.25)
    targets[0, :2] = 0, vocab - 1
    with jax.set_mesh(mesh):
        run = chunked()
        # The last one: the first rows are all wanted, the last ones not at all.
        half = np.broadcast_to(np.arange(ROWS)[:, None] < ROWS // 2, (ROWS, LENGTH))
        for mask in (wanted(45), half):
            rows = jax.device_put((targets, mask), batch_sharding(mesh))
            expected = dense_float32(hidden, weight, targets, mask, cotangents)
            tiny.assert_close(run(hidden, weight, *rows, cotangents), expected, 1e-6)


def test_full_logits_are_the_products_in_float32():
    hidden, weight, _, _ = inputs(vocab=37)
    logits = head.full_logits(jnp.asarray(hidden[:, 0], jnp.bfloat16), jnp.asarray(weight))
    assert logits.dtype == jnp.float32 and logits.shape == (ROWS, 37)
    rounded = [np.asarray(jnp.asarray(x, jnp.bfloat16), np.float64) for x in (hidden[:, 0], weight)]
    tiny.assert_close(logits, rounded[0] @ rounded[1].T, 1e-6)
