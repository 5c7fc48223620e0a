"""Every policy and preference loss against its paper's formula, in numpy and float64, sequence by sequence.

Nothing here is shared with what is tested: sequences are plain lists of numbers, and gradients are written out.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mirothinker_jax.config import ConfigError, DPOConfig, GRPOConfig
from mirothinker_jax.data.packing import pack_pairs, pack_rows
from mirothinker_jax.objectives.dpo import make_dpo
from mirothinker_jax.objectives.grpo import make_grpo

LENGTH = 24


def token_losses(config, sequence):
    """(loss, gradient by log π) of each token of a sequence of {logp, sampler, advantage}, float64."""
    logp, sampler, a = (sequence[k] for k in ("logp", "sampler", "advantage"))
    old = logp if config.ratio_to == "start" else sampler  # a step is one update
    behind = logp - sampler
    ratio = np.exp(logp - old)
    low, high = 1 - config.clip_low, 1 + config.clip_high
    losses, slopes = [], []
    for t in range(len(logp)):
        r = np.exp(np.mean(logp - old)) if config.loss == "gspo" else ratio[t]
        if config.loss == "reinforce":
            loss, slope = -a * logp[t], -a
        elif config.loss == "cispo":
            weight = min(max(r, low), high)
            loss, slope = -weight * a * logp[t], -weight * a
        else:
            loss = max(-r * a, -min(max(r, low), high) * a)
            slope = -r * a if loss == -r * a else 0.0
            if config.clip_dual and a < 0 and loss > -config.clip_dual * a:
                loss, slope = -config.clip_dual * a, 0.0
        weight = {
            "none": 1.0,
            "tis": min(np.exp(behind[t]), config.correction_high),
            "icepop": np.exp(behind[t])
            if config.correction_low <= np.exp(behind[t]) <= config.correction_high
            else 0.0,
            "sequence-tis": min(np.prod(np.exp(behind)), config.correction_high),
        }[config.sampler_correction]
        distance = {
            "none": 1.0,
            "sequence": np.prod(np.exp(behind)),
            "geometric": np.prod(np.exp(behind)) ** (1 / len(behind)),
        }[config.sampler_mask]
        weight *= config.mask_low <= distance <= config.mask_high
        losses.append(weight * loss)
        slopes.append(weight * slope)
    return np.asarray(losses), np.asarray(slopes)


def rows():
    return pack_rows(tiny.samples(0, (11, 8, 5, 20, 4)), LENGTH)


CONFIGS = [
    dict(),
    dict(loss="clip"),
    dict(loss="clip", clip_dual=1.3),
    dict(loss="gspo", clip_low=0.1, clip_high=0.05),
    dict(loss="cispo"),
    dict(loss="cispo", clip_low=1.0, clip_high=0.1),
    dict(sampler_correction="tis", correction_high=1.1),
    dict(sampler_correction="icepop", correction_low=0.8, correction_high=1.2),
    dict(sampler_correction="sequence-tis", correction_high=1.5),
    dict(sampler_mask="sequence", mask_low=0.6, mask_high=1.8),
    dict(sampler_mask="geometric", mask_low=0.95, mask_high=1.1),
    dict(loss="clip", sampler_mask="geometric", mask_low=0.95, mask_high=1.1),
    dict(loss="clip", ratio_to="start"),
    dict(loss="clip", ratio_to="start", sampler_correction="tis", correction_high=1.1),
    dict(loss="gspo", ratio_to="start", sampler_correction="sequence-tis"),
    dict(
        loss="cispo", ratio_to="start", sampler_correction="icepop", correction_low=0.8, correction_high=1.2
    ),
]


@pytest.mark.parametrize("settings", CONFIGS, ids=str)
def test_a_policy_loss_is_its_formula(settings):
    """Token by token: the loss is what the total grows by with the token's weight."""
    config, batch = GRPOConfig(**settings), rows()
    off = np.random.default_rng(1).normal(size=batch.shape) * 0.3
    logprobs = np.where(batch.weights > 0, batch.sampler_logprobs + off, 0.0).astype(np.float32)

    def total(logprobs, weights):
        return make_grpo(config)(logprobs, logprobs, dataclasses.replace(batch, weights=weights)).total

    slopes, losses = jax.grad(total, (0, 1))(jnp.asarray(logprobs), jnp.asarray(batch.weights))
    changed = 0
    for row in range(batch.shape[0]):
        for sequence in range(batch.sequence[row].max() + 1):
            here = (batch.sequence[row] == sequence) & (batch.weights[row] > 0)
            columns = dict(logp=logprobs, sampler=batch.sampler_logprobs)
            given = {name: x[row, here].astype(np.float64) for name, x in columns.items()}
            given["advantage"] = float(batch.advantages[row, here][0])
            expected, slope = token_losses(config, given)
            np.testing.assert_allclose(losses[row, here], expected, rtol=2e-6, atol=1e-6)
            np.testing.assert_allclose(slopes[row, here], slope, rtol=2e-6, atol=1e-6)
            plain = -given["advantage"] * given["logp"]
            changed += np.sum(np.abs(expected - plain) > 1e-3)
    assert settings == {} or changed, "these settings do nothing on these rows"
    assert not np.any(np.asarray(slopes)[batch.weights == 0])


@pytest.mark.parametrize("loss", ["clip", "gspo", "cispo"])
def test_the_start_of_a_step_is_now(loss):
    """One update a batch: the ratio is 1, the gradient the paper's times the weight of the way to the sampler."""
    batch = rows()
    logprobs = jnp.asarray(np.where(batch.weights > 0, batch.sampler_logprobs + 0.2, 0.0), jnp.float32)
    decoupled = make_grpo(GRPOConfig(loss=loss, ratio_to="start", sampler_correction="tis"))
    gradient = jax.grad(lambda x: decoupled(x, x, batch).total)(logprobs)
    np.testing.assert_allclose(gradient, -np.exp(0.2) * batch.advantages * batch.weights, rtol=1e-5)
    paper = make_grpo(GRPOConfig(sampler_correction="tis"))
    np.testing.assert_array_equal(gradient, jax.grad(lambda x: paper(x, x, batch).total)(logprobs))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (dict(), lambda d: np.log1p(np.exp(-0.4 * d))),
        (
            dict(label_smoothing=0.2),
            lambda d: 0.8 * np.log1p(np.exp(-0.4 * d)) + 0.2 * np.log1p(np.exp(0.4 * d)),
        ),
        (dict(loss="ipo"), lambda d: (d - 1 / 0.8) ** 2),
        (dict(loss="hinge"), lambda d: max(0.0, 1 - 0.4 * d)),
    ],
    ids=["sigmoid", "smoothed", "ipo", "hinge"],
)
@pytest.mark.parametrize("normalised", [False, True], ids=["summed", "mean"])
def test_a_preference_loss_is_its_formula(settings, expected, normalised):
    batch = pack_pairs(tiny.pairs(0, [(5, 4, 7), (3, 6, 2), (2, 9, 9)]), 40, 2)
    near = batch.ref_logprobs + np.random.default_rng(2).normal(size=batch.shape)
    logprobs = np.where(batch.weights > 0, near, 0.0).astype(np.float32)
    config = DPOConfig(beta=0.4, sft_coef=0.0, pairs_per_row=2, length_normalised=normalised, **settings)
    total, pairs = 0.0, 0
    for row in range(batch.shape[0]):
        for chosen in range(0, batch.sequence[row].max() + 1, 2):
            score = []
            for sequence in (chosen, chosen + 1):
                here = (batch.sequence[row] == sequence) & (batch.weights[row] > 0)
                ratios = logprobs[row, here].astype(np.float64) - batch.ref_logprobs[row, here]
                score.append(ratios.mean() if normalised else ratios.sum())
            total, pairs = total + expected(score[0] - score[1]), pairs + 1
    out = make_dpo(config)(jnp.asarray(logprobs), jnp.zeros(batch.shape, jnp.float32), batch)
    assert pairs == 3
    np.testing.assert_allclose(out.total, total, rtol=2e-6)


@pytest.mark.parametrize(
    ("config", "settings", "keys"),
    [
        (GRPOConfig, dict(ratio_to="start"), ["grpo.ratio_to", "grpo.loss 'reinforce'"]),
        (
            GRPOConfig,
            dict(loss="clip", ratio_to="start", clip_high=0.1),
            ["grpo.clip_high is 0.1", "grpo.ratio_to 'start'", "leave it at 0.28"],
        ),
        (
            GRPOConfig,
            dict(loss="clip", ratio_to="start", clip_dual=3.0),
            ["grpo.clip_dual is 3.0", "grpo.ratio_to 'start'", "leave it at 0.0"],
        ),
        (GRPOConfig, dict(loss="gspo", clip_dual=3.0), ["grpo.clip_dual is 3.0", "grpo.loss 'gspo'"]),
        (GRPOConfig, dict(loss="clip", clip_dual=1.1), ["grpo.clip_dual is 1.1", "grpo.clip_high (1.28)"]),
        (GRPOConfig, dict(loss="gspo", sampler_correction="tis"), ["grpo.sampler_correction", "'gspo'"]),
        (GRPOConfig, dict(loss="cispo", sampler_correction="tis"), ["grpo.sampler_correction", "'cispo'"]),
        (GRPOConfig, dict(sampler_mask="sequence", mask_low=1.5), ["grpo.mask_low (1.5)"]),
        (
            GRPOConfig,
            dict(sampler_correction="icepop", correction_low=3.0),
            ["grpo.correction_low (3.0)", "(2.0)"],
        ),
        (GRPOConfig, dict(reward_terms=("brevity",)), ["grpo.reward_terms holds 'brevity'", "NAME:NUMBER"]),
        (GRPOConfig, dict(reward_terms=("a:1", "a:2")), ["names a twice"]),
        (DPOConfig, dict(loss="ipo", label_smoothing=0.1), ["dpo.label_smoothing is 0.1", "dpo.loss 'ipo'"]),
        (DPOConfig, dict(label_smoothing=0.5), ["dpo.label_smoothing is 0.5"]),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused_by_name(config, settings, keys):
    with pytest.raises(ConfigError) as refused:
        config(**settings)
    assert all(key in str(refused.value) for key in keys), refused.value
