"""GRPO: golden numbers of a reference implementation, exact expectations, and what must not matter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mirothinker_jax.config import GRPOConfig
from mirothinker_jax.data.packing import pack_rows
from mirothinker_jax.objectives.grpo import make_grpo
from mirothinker_jax.objectives.kl import kl_estimate
from mirothinker_jax.objectives.ratios import sampler_weights
from mirothinker_jax.types import Batch


def floats(*values):
    return jnp.asarray(values, jnp.float32)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("k1", [0.5, -1, 0]),
        ("k2", [0.125, 0.5, 0]),
        ("k3", [0.106531, 0.718282, 0]),
        ("k3-ratio", [0.106531, 0.718282, 0]),
    ],
)
def test_values_of_the_kl_estimators(kind, expected):
    values = kl_estimate(floats(-1, -2, -0.5), floats(-1.5, -1, -0.5), kind)
    np.testing.assert_allclose(values, expected, atol=1e-6)


KL_GRADIENT = [0.149849, -0.187048, 0.037199]  # of KL(π‖ref) by θ, golden


@pytest.mark.parametrize("kind", ["k1", "k2", "k3", "k3-ratio"])
def test_the_expected_gradient_of_a_kl_estimator_as_a_loss(kind):
    """Exactly, over a softmax of three: each outcome's gradient weighted by its probability."""
    theta, reference = floats(0.5, -0.3, 0.1), jax.nn.log_softmax(floats(0, 0.4, -0.2))
    probabilities = jax.nn.softmax(theta)

    def expected_loss(theta):
        estimates = kl_estimate(jax.nn.log_softmax(theta), reference, kind)
        return (jax.lax.stop_gradient(probabilities) * estimates).sum()

    gradient = jax.grad(expected_loss)(theta)

    def kl(p_logs, q_logs):
        return (jnp.exp(p_logs) * (p_logs - q_logs)).sum()

    forward = jax.grad(lambda t: kl(jax.nn.log_softmax(t), reference))(theta)
    np.testing.assert_allclose(forward, KL_GRADIENT, atol=1e-6)
    wanted = {
        "k1": jnp.zeros(3, jnp.float32),
        "k2": forward,
        "k3": jax.grad(lambda t: kl(reference, jax.nn.log_softmax(t)))(theta),
        "k3-ratio": forward,
    }[kind]
    np.testing.assert_allclose(gradient, wanted, atol=1e-6)


def test_the_estimators_far_from_the_reference():
    """Bounded in value; a token that has gone too far is still pulled back, and not the wrong way."""
    logprobs, reference = floats(-1, -100, -1), floats(-100, -1, -jnp.inf)

    def slope(kind):
        return jax.grad(lambda x: kl_estimate(x, reference, kind).sum())(logprobs)

    far = np.exp(np.float32(20))
    for kind, expected in (("k1", [20, -20, 20]), ("k2", [200] * 3), ("k3", [19, far - 21, 19])):
        np.testing.assert_allclose(kl_estimate(logprobs, reference, kind), expected, rtol=1e-6)
    for kind in ("k2", "k3-ratio"):
        np.testing.assert_allclose(slope(kind), [20, -20, 20], rtol=1e-6)


def test_truncated_and_masked_importance_weights():
    ratios, batch = floats(-1, -1, -1, -1) - floats(-1, -1.5, -3, -0.2), Batch.empty(1, 4)
    tis = sampler_weights(ratios, batch, "tis", 0.0, 2.0)
    np.testing.assert_allclose(tis, [1, 1.648721, 2, 0.449329], rtol=1e-6)
    masked = sampler_weights(ratios, batch, "icepop", 0.5, 5.0)
    np.testing.assert_allclose(masked, [1, 1.648721, 0, 0], rtol=1e-6)
    np.testing.assert_array_equal(sampler_weights(ratios, batch, "none", 0.5, 5.0), 1)


LENGTH = 24


def make_batch(aggregate="token-mean"):
    return pack_rows(tiny.samples(0, (11, 8, 5, 20, 4)), LENGTH, aggregate=aggregate)


def near(batch, scale, seed=1):
    """Trainer's log-probs a little off the sampler's, zero where nothing is trained."""
    drawn = batch.sampler_logprobs + np.random.default_rng(seed).normal(size=batch.shape) * scale
    return jnp.asarray(np.where(batch.weights > 0, drawn, 0.0), jnp.float32)


def run(config, logprobs, batch):
    out = make_grpo(config)(logprobs, jnp.full(batch.shape, 1.5, jnp.float32), batch)
    return out, {name: float(s / w) for name, (s, w) in out.metrics.items()}


def trained(batch, values):
    return np.asarray(values)[batch.weights > 0].astype(np.float64)


def test_the_papers_loss():
    """−Σ A·log π / trained tokens; its gradient on a token is −A."""
    batch = make_batch()
    logprobs = near(batch, 0.3)
    out, figures = run(GRPOConfig(), logprobs, batch)
    advantages, logs = trained(batch, batch.advantages), trained(batch, logprobs)
    np.testing.assert_allclose(out.total, -(advantages * logs).sum(), rtol=1e-5)
    assert batch.denominator.sum() == len(logs) == 11 + 8 + 5 + 20 + 4 - 5 * 2
    gradient = jax.grad(lambda x: make_grpo(GRPOConfig())(x, x, batch).total)(logprobs)
    np.testing.assert_allclose(gradient, -batch.advantages * batch.weights, rtol=1e-6)
    gaps = logs - trained(batch, batch.sampler_logprobs)
    assert figures["logprob_gap"] == pytest.approx(np.abs(gaps).mean(), rel=1e-5)
    assert figures["logprob_gap_signed"] == pytest.approx(gaps.mean(), rel=1e-4)
    assert (figures["clip_fraction"], figures["entropy"]) == (0.0, pytest.approx(1.5))
    assert "kl" not in figures


def test_the_clipped_loss():
    """PPO's, with DAPO's two bounds: outside them, in the direction A pushes, a token has no gradient."""
    batch, config = make_batch(), GRPOConfig(loss="clip", clip_low=0.2, clip_high=0.28)
    logprobs = near(batch, 0.5)
    out, figures = run(config, logprobs, batch)
    ratio = np.exp(trained(batch, logprobs) - trained(batch, batch.sampler_logprobs))
    advantages = trained(batch, batch.advantages)
    unclipped, clipped = ratio * advantages, np.clip(ratio, 0.8, 1.28) * advantages
    np.testing.assert_allclose(out.total, -np.minimum(unclipped, clipped).sum(), rtol=1e-5)
    stopped = np.where(advantages > 0, ratio > 1.28, ratio < 0.8)
    assert 0.1 < figures["clip_fraction"] < 0.9
    assert figures["clip_fraction"] == pytest.approx(stopped.mean())
    gradient = trained(batch, jax.grad(lambda x: make_grpo(config)(x, x, batch).total)(logprobs))
    np.testing.assert_array_equal(gradient == 0, stopped)


def test_on_policy_the_clipped_gradient_is_the_papers():
    batch = make_batch()
    logprobs = near(batch, 0.0)

    def gradient(loss):
        objective = make_grpo(GRPOConfig(loss=loss))
        return jax.grad(lambda x: objective(x, x, batch).total)(logprobs)

    assert np.any(gradient("clip"))
    np.testing.assert_allclose(gradient("clip"), gradient("reinforce"), rtol=1e-5)


@pytest.mark.parametrize("kind", ["k2", "k3-ratio"])
def test_the_kl_term_is_added_with_its_coefficient(kind):
    batch = make_batch()
    logprobs = near(batch, 0.3)
    plain, _ = run(GRPOConfig(), logprobs, batch)
    out, figures = run(GRPOConfig(kl_coef=0.25, kl=kind), logprobs, batch)
    estimates = trained(batch, kl_estimate(logprobs, jnp.asarray(batch.ref_logprobs), kind))
    np.testing.assert_allclose(out.total - plain.total, 0.25 * estimates.sum(), rtol=1e-4)
    k3 = trained(batch, kl_estimate(logprobs, jnp.asarray(batch.ref_logprobs), "k3"))
    assert figures["kl"] == pytest.approx(k3.mean(), rel=1e-4) and figures["kl"] >= 0


@pytest.mark.parametrize("correction", ["tis", "icepop"])
def test_the_correction_scales_tokens_and_leaves_the_denominator(correction):
    batch = make_batch()
    logprobs = near(batch, 0.8)
    config = GRPOConfig(sampler_correction=correction, correction_low=0.5, correction_high=2.0)
    out, _ = run(config, logprobs, batch)
    logs, advantages = trained(batch, logprobs), trained(batch, batch.advantages)
    ratio = np.exp(logs - trained(batch, batch.sampler_logprobs))
    kept = np.minimum(ratio, 2) if correction == "tis" else np.where((ratio >= 0.5) & (ratio <= 2), ratio, 0)
    assert (kept != ratio).any()
    np.testing.assert_allclose(out.total, -(kept * advantages * logs).sum(), rtol=1e-5)
    assert batch.denominator.sum() == len(logs)


@pytest.mark.parametrize(
    ("config", "advantage", "loss", "slope"),
    [
        # log π − log μ of +99, −99 and +∞ with log π of −1, −100 and −1.
        (dict(loss="clip"), 2.0, [-2.56, -2 * np.exp(-20), -2.56], [0, 0, 0]),
        (dict(loss="clip"), -2.0, [2 * np.exp(20), 1.6, 2 * np.exp(20)], [0, 0, 0]),
        (dict(sampler_correction="tis"), 2.0, [4, 200 * np.exp(-20), 4], [-4, -2 * np.exp(-20), -4]),
        (dict(sampler_correction="icepop"), 2.0, [0, 0, 0], [0, 0, 0]),
    ],
)
def test_log_ratios_without_bound(config, advantage, loss, slope):
    """Nothing overflows: neither a token's loss nor its gradient, nor a figure."""
    batch = Batch.empty(3, 1)  # a token to a row
    batch.weights[:], batch.advantages[:] = 1.0, advantage
    batch.sampler_logprobs[:] = [[-100], [-1], [-np.inf]]
    logprobs = jnp.asarray([[-1.0], [-100.0], [-1.0]], jnp.float32)
    objective = make_grpo(GRPOConfig(**config))
    totals = jax.vmap(lambda x, row: objective(x, x, row).total)(logprobs, batch)
    np.testing.assert_allclose(totals, loss, rtol=1e-5)
    gradient = jax.grad(lambda x: objective(x, x, batch).total)(logprobs)
    np.testing.assert_allclose(gradient[:, 0], slope, rtol=1e-5)
    assert all(np.isfinite(s) for s, _ in objective(logprobs, logprobs, batch).metrics.values())


def test_zero_advantages_give_no_gradient():
    batch = make_batch()
    batch.advantages[:] = 0.0
    gradient = jax.grad(lambda x: make_grpo(GRPOConfig(loss="clip"))(x, x, batch).total)(near(batch, 0.4))
    assert not np.any(gradient)
