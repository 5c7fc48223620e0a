"""Drawing a token: support, frequencies, and the log-prob of the very distribution it was drawn from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirothinker_jax.rollout.sampling import Sampling, _nucleus, sample

PROBS = np.asarray([0.05, 0.4, 0.02, 0.3, 0.15, 0.08])
DRAWS = 4000


def draw(sampling, logits=None, count=DRAWS):
    """(tokens, log-probs) of `count` independent draws from the same logits."""
    logits = jnp.log(jnp.asarray(PROBS, jnp.float32)) + 3.0 if logits is None else logits
    keys = jax.vmap(jax.random.key)(jnp.arange(count, dtype=jnp.uint32))
    rows = jnp.broadcast_to(logits, (count, logits.shape[-1]))
    run = jax.jit(sample, static_argnums=2)
    return tuple(np.asarray(x) for x in run(rows, keys, sampling))


def expected(temperature=1.0, top_p=1.0):
    """The tempered distribution, cut to the smallest set that reaches top_p, by a plain loop."""
    probs = PROBS ** (1 / temperature)
    probs /= probs.sum()
    kept, mass = np.zeros(len(probs), bool), 0.0
    for token in np.argsort(-probs):
        if mass >= top_p:
            break
        kept[token] = True
        mass += probs[token]
    probs = np.where(kept, probs, 0.0)
    return probs / probs.sum()


@pytest.mark.parametrize(
    ("temperature", "top_p", "support"),
    [
        (1.0, 1.0, {0, 1, 2, 3, 4, 5}),
        (0.5, 1.0, {0, 1, 2, 3, 4, 5}),
        (1.0, 0.75, {1, 3, 4}),  # .4 + .3 fall short: the token that crosses is kept
        (1.0, 0.65, {1, 3}),
        (2.0, 0.5, {1, 3}),
        (1.0, 0.1, {1}),
    ],
)
def test_support_frequencies_and_log_probs(temperature, top_p, support):
    probs = expected(temperature, top_p)
    tokens, logprobs = draw(Sampling(temperature, top_p))
    assert tokens.dtype == np.int32 and logprobs.dtype == np.float32
    assert set(np.flatnonzero(probs)) == support
    np.testing.assert_allclose(logprobs, np.log(probs[tokens]), atol=1e-5)
    frequencies = np.bincount(tokens, minlength=len(probs)) / DRAWS
    assert not frequencies[probs == 0].any()
    np.testing.assert_allclose(frequencies, probs, atol=5 * np.sqrt(0.25 / DRAWS))


def test_temperature_zero_is_greedy_and_reports_the_untempered_log_prob():
    tokens, logprobs = draw(Sampling(temperature=0.0, top_p=0.1), count=20)
    assert set(tokens) == {1}
    np.testing.assert_allclose(logprobs, np.log(PROBS[1]), atol=1e-5)


def test_equally_likely_tokens_are_all_kept_or_truncated_alike():
    """Ties at the threshold: which of them would be cut is arbitrary, so none is."""
    tokens, logprobs = draw(Sampling(top_p=0.3), jnp.zeros(4, jnp.float32), count=400)
    assert set(tokens) == {0, 1, 2, 3}
    np.testing.assert_allclose(logprobs, np.log(0.25), atol=1e-6)


def test_a_key_decides_the_draw():
    logits = jnp.zeros((2, 50), jnp.float32)
    keys = jax.vmap(jax.random.key)(jnp.asarray([3, 3], jnp.uint32))
    tokens, _ = sample(logits, keys, Sampling())
    assert tokens[0] == tokens[1]


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
@pytest.mark.parametrize("shift", [-50.0, 0.0, 50.0])
def test_the_nucleus_is_what_sorting_finds(scale, shift):
    """On both signs, on flat and on peaked distributions, and with tokens that cannot be drawn at all."""
    rng = np.random.default_rng(0)
    logits = (rng.normal(size=(40, 257)) * scale + shift).astype(np.float32)
    logits[:, ::9] = -np.inf
    top_p = 0.9
    kept = np.isfinite(np.asarray(jax.jit(_nucleus, static_argnums=1)(jnp.asarray(logits), top_p)))
    for row, found in zip(logits, kept, strict=True):
        probs = np.exp(row.astype(np.float64) - row.max())
        probs /= probs.sum()
        order = np.argsort(-row, kind="stable")
        before = np.cumsum(probs[order]) - probs[order]
        assert np.abs(before - top_p).min() > 1e-6, "too close to call in float32: take another seed"
        least = row[order[before < top_p]].min()  # what is as likely stays too
        np.testing.assert_array_equal(found, row >= least)
