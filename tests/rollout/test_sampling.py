"""Drawing a token: support, frequencies, and the log-prob of the very distribution it was drawn from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirothinker_jax.agent.policy import Sampling
from mirothinker_jax.rollout.sampling import Settings, _truncate, sample, uniforms

PROBS = np.asarray([0.05, 0.4, 0.02, 0.3, 0.15, 0.08])
DRAWS = 4000


_sample = jax.jit(sample)


def draw(sampling, logits=None, count=DRAWS, seen=None):
    """Tokens, log-probs and raw log-probs of `count` independent draws from the same logits."""
    logits = jnp.log(jnp.asarray(PROBS, jnp.float32)) + 3.0 if logits is None else logits
    settings = Settings.rows([(sampling, seed) for seed in range(count)])
    uniform = uniforms(settings.seed, jnp.zeros(count, jnp.int32))
    rows = jnp.broadcast_to(logits, (count, logits.shape[-1]))
    if seen is not None:
        seen = jnp.broadcast_to(jnp.asarray(seen), rows.shape)
    return tuple(np.asarray(x) for x in _sample(rows, uniform, settings, seen))


def expected(temperature=1.0, top_p=1.0, top_k=0, min_p=0.0):
    """The tempered distribution, cut to the k most likely, to the smallest set that reaches top_p, and by min_p, by a
    plain loop."""
    probs = PROBS ** (1 / temperature)
    probs[np.argsort(-probs)[top_k or len(probs) :]] = 0.0
    probs /= probs.sum()
    kept, mass = np.zeros(len(probs), bool), 0.0
    for token in np.argsort(-probs):
        if mass >= top_p:
            break
        kept[token] = True
        mass += probs[token]
    probs = np.where(kept & (probs >= min_p * probs.max()), probs, 0.0)
    return probs / probs.sum()


@pytest.mark.parametrize(
    ("settings", "support"),
    [
        ({}, {0, 1, 2, 3, 4, 5}),
        ({"temperature": 0.5}, {0, 1, 2, 3, 4, 5}),
        ({"top_p": 0.75}, {1, 3, 4}),  # .4 + .3 fall short: the token that crosses is kept
        ({"top_p": 0.65}, {1, 3}),
        ({"temperature": 2.0, "top_p": 0.5}, {1, 3}),
        ({"top_p": 0.1}, {1}),
        ({"top_k": 3}, {1, 3, 4}),
        ({"top_k": 9}, {0, 1, 2, 3, 4, 5}),
        ({"top_k": 4, "top_p": 0.9}, {1, 3, 4}),  # .4 + .3 + .15 of .93
        ({"min_p": 0.19}, {1, 3, 4, 5}),
        ({"temperature": 2.0, "min_p": 0.3}, {0, 1, 3, 4, 5}),
        ({"top_k": 4, "top_p": 0.9, "min_p": 0.5}, {1, 3}),
    ],
)
def test_support_frequencies_and_log_probs(settings, support):
    probs = expected(**settings)
    tokens, logprobs, raw = draw(Sampling(**settings))
    assert tokens.dtype == np.int32 and logprobs.dtype == raw.dtype == np.float32
    assert set(np.flatnonzero(probs)) == support
    np.testing.assert_allclose(logprobs, np.log(probs[tokens]), atol=1e-5)
    np.testing.assert_allclose(raw, np.log(PROBS[tokens]), atol=1e-5)
    frequencies = np.bincount(tokens, minlength=len(probs)) / DRAWS
    assert not frequencies[probs == 0].any()
    np.testing.assert_allclose(frequencies, probs, atol=5 * np.sqrt(0.25 / DRAWS))


def test_what_was_said_already_is_less_likely():
    """A positive logit is divided, a negative one multiplied."""
    logits = np.asarray([2.0, -1.0, 1.0, -2.0], np.float32)
    seen = np.asarray([True, True, False, False])
    tokens, logprobs, raw = draw(Sampling(repetition_penalty=2.0), jnp.asarray(logits), seen=seen)
    log = lambda x: x - np.log(np.exp(x).sum())  # noqa: E731
    np.testing.assert_allclose(logprobs, log(np.asarray([1.0, -2.0, 1.0, -2.0]))[tokens], atol=1e-5)
    np.testing.assert_allclose(raw, log(logits)[tokens], atol=1e-5)
    greedy = Sampling(temperature=0.0, repetition_penalty=4.0)
    tokens, logprobs, raw = draw(greedy, jnp.asarray(logits), count=3, seen=seen)
    assert set(tokens) == {2}
    np.testing.assert_allclose(np.stack([logprobs, raw]), log(logits)[2], atol=1e-6)


def test_every_number_finds_its_token():
    """By hand, over several blocks, with blocks and tokens that cannot be drawn, also where the number is one."""
    probs = np.zeros(1000)
    probs[[3, 130, 131, 640]] = 0.25, 0.125, 0.125, 0.5
    numbers = np.asarray([0.0, 0.2499, 0.2501, 0.3749, 0.3751, 0.4999, 0.5001, 1 - 2**-24, 1.0], np.float32)
    with np.errstate(divide="ignore"):
        logits = jnp.broadcast_to(jnp.asarray(np.log(probs), jnp.float32), (len(numbers), 1000))
    settings = Settings.rows([(Sampling(), 0)] * len(numbers))
    drawn = _sample(logits, numbers, settings, None)
    assert drawn.tokens.tolist() == [3, 3, 130, 130, 131, 131, 640, 640, 640]


def test_temperature_zero_is_greedy_and_reports_the_untempered_log_prob():
    tokens, logprobs, _ = draw(Sampling(temperature=0.0, top_p=0.1), count=20)
    assert set(tokens) == {1}
    np.testing.assert_allclose(logprobs, np.log(PROBS[1]), atol=1e-5)


def test_equally_likely_tokens_are_all_kept_or_truncated_alike():
    """Ties at the threshold: which of them would be cut is arbitrary, so none is."""
    tokens, logprobs, _ = draw(Sampling(top_p=0.3), jnp.zeros(4, jnp.float32), count=400)
    assert set(tokens) == {0, 1, 2, 3}
    np.testing.assert_allclose(logprobs, np.log(0.25), atol=1e-6)


def test_seed_and_place_decide_the_draw():
    seeds, places = np.asarray([3, 3, 3, 4], np.uint32), np.asarray([0, 0, 1, 0], np.int32)
    same, again, other_place, other_seed = np.asarray(uniforms(seeds, places)).tolist()
    assert same == again and len({same, other_place, other_seed}) == 3


@pytest.mark.parametrize(
    "setting",
    [{"top_p": 0.5}, {"top_k": 2}, {"min_p": 0.4}, {"temperature": 0.0}, {"repetition_penalty": 3.0}],
)
def test_a_neighbours_settings_change_nothing(setting):
    """Bit for bit, also where what a row does not ask for is computed for its neighbour."""
    rng = np.random.default_rng(0)
    logits, seen = jnp.asarray(rng.normal(size=(2, 500)), jnp.float32), rng.random((2, 500)) < 0.5
    uniform = np.asarray([0.37, 0.99], np.float32)

    def rows(*settings):
        drawn = _sample(logits, uniform, Settings.rows([(s, 0) for s in settings]), seen)
        return np.asarray(drawn, np.float64).T.tolist()

    plain, other = Sampling(), Sampling(**setting)
    assert rows(plain, other) == [rows(plain, plain)[0], rows(other, other)[1]]
    assert rows(other, plain) == [rows(other, other)[0], rows(plain, plain)[1]]


WRONG = {"temperature": -1.0, "top_p": 0.0, "top_k": -1, "min_p": 1.5, "repetition_penalty": 0.0}


@pytest.mark.parametrize("name", WRONG)
def test_settings_out_of_range(name):
    with pytest.raises(ValueError, match=rf"^sampling\.{name} is {WRONG[name]}; give "):
        Sampling(**{name: WRONG[name]})


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
@pytest.mark.parametrize("shift", [-50.0, 0.0, 50.0])
def test_the_nucleus_is_what_sorting_finds(scale, shift):
    """On both signs, on flat and on peaked distributions, and with tokens that cannot be drawn at all."""
    rng = np.random.default_rng(0)
    logits = (rng.normal(size=(40, 257)) * scale + shift).astype(np.float32)
    logits[:, ::9] = -np.inf
    top_p = 0.9
    settings = Settings.rows([(Sampling(top_p=top_p), 0)] * len(logits))
    kept = np.isfinite(np.asarray(jax.jit(_truncate)(jnp.asarray(logits), settings)))
    for row, found in zip(logits, kept, strict=True):
        probs = np.exp(row.astype(np.float64) - row.max())
        probs /= probs.sum()
        order = np.argsort(-row, kind="stable")
        before = np.cumsum(probs[order]) - probs[order]
        assert np.abs(before - top_p).min() > 1e-6, "too close to call in float32: take another seed"
        least = row[order[before < top_p]].min()  # what is as likely stays too
        np.testing.assert_array_equal(found, row >= least)
