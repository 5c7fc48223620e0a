"""DPO: by hand, at the start, and with the two sequences of a pair swapped."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mirothinker_jax.config import DPOConfig
from mirothinker_jax.data.packing import Pair, pack_pairs
from mirothinker_jax.objectives.dpo import make_dpo
from mirothinker_jax.objectives.sequences import own_sums, sequence_sums
from mirothinker_jax.types import Batch

LENGTH, PER_ROW = 40, 2


def make_batch(swapped=False):
    made = tiny.pairs(0, [(5, 4, 7), (3, 6, 2), (2, 9, 9)])
    if swapped:
        made = [Pair(p.prompt, p.rejected, p.chosen) for p in made]
    return pack_pairs(made, LENGTH, PER_ROW)


def random_logprobs(batch, seed=1):
    """Zero where nothing is trained, as the head gives them."""
    draw = -np.random.default_rng(seed).uniform(0.5, 4.0, batch.shape)
    return jnp.asarray(np.where(batch.weights > 0, draw, 0.0), jnp.float32)


def objective(beta, sft_coef):
    return make_dpo(DPOConfig(beta=beta, sft_coef=sft_coef, pairs_per_row=PER_ROW))


def loss(logprobs, batch, beta=0.3, sft_coef=0.0):
    out = objective(beta, sft_coef)(logprobs, jnp.zeros(batch.shape, jnp.float32), batch)
    return out.total / batch.denominator.sum(), out


def metric(out, name):
    total, weight = out.metrics[name]
    return float(total / weight)


def test_by_hand():
    """Summed log-probs: chosen −3 against −4 under the reference, rejected −5 against −4.5."""
    batch = Batch.empty(1, 6)
    batch.sequence[:] = [[-1, 0, 0, 1, 1, -1]]
    batch.weights[:] = [[0, 1, 1, 1, 0, 0]]
    batch.denominator[0, 1] = 1
    batch.ref_logprobs[:] = [[7, -1, -3, -4.5, 7, 7]]
    logprobs = jnp.asarray([[0, -2, -1, -5, 0, 0]], jnp.float32)
    value, out = loss(logprobs, batch, beta=0.5, sft_coef=0.1)
    margin = 0.5 * ((-3 + 4) - (-5 + 4.5))
    nll = 3 / 2  # per token of the chosen sequence
    np.testing.assert_allclose(value, np.log1p(np.exp(-margin)) + 0.1 * nll, rtol=1e-6)
    expected = {"margin": margin, "chosen_reward": 0.5, "rejected_reward": -0.25, "chosen_nll": nll}
    assert {name: metric(out, name) for name in expected} == pytest.approx(expected)
    assert metric(out, "preference_accuracy") == 1.0


def test_at_the_start_the_loss_is_log_2():
    batch = make_batch()
    logprobs = random_logprobs(batch)
    same = dataclasses.replace(batch, ref_logprobs=np.asarray(logprobs))
    value, out = loss(logprobs, same)
    assert batch.denominator.sum() == 3
    np.testing.assert_allclose(value, np.log(2), rtol=1e-6)
    assert metric(out, "margin") == 0


def test_swapping_chosen_and_rejected_negates_the_margin():
    batch, swapped = make_batch(), make_batch(swapped=True)
    moved = {}  # the same log-probs, wherever their sequence went
    logprobs = np.asarray(random_logprobs(batch))
    target = np.zeros_like(logprobs)
    for row in range(batch.shape[0]):
        for sequence in range(2 * PER_ROW):
            old = (batch.sequence[row] == sequence) & (batch.weights[row] > 0)
            new = (swapped.sequence[row] == sequence ^ 1) & (swapped.weights[row] > 0)
            assert old.sum() == new.sum()
            target[row, new] = logprobs[row, old]
            moved[row, sequence] = old.sum()
    assert sum(n > 0 for n in moved.values()) == 6
    value, out = loss(jnp.asarray(logprobs), batch)
    other_value, other = loss(jnp.asarray(target), swapped)
    assert metric(other, "margin") == pytest.approx(-metric(out, "margin"), rel=1e-5)
    assert metric(other, "chosen_reward") == pytest.approx(metric(out, "rejected_reward"), rel=1e-5)
    # −log σ(m) − (−log σ(−m)) = −m, pair by pair.
    np.testing.assert_allclose(float(value - other_value), -metric(out, "margin"), rtol=1e-4)


def test_the_gradient_is_beta_times_sigmoid_of_minus_the_margin():
    """On each chosen token −β·σ(−m), on each rejected one +β·σ(−m) (the paper's eq. 7), none elsewhere."""
    batch, beta = make_batch(), 0.3
    logprobs = random_logprobs(batch)
    gradient = jax.grad(lambda x: objective(beta, 0.0)(x, x, batch).total)(logprobs)
    delta = np.where(batch.weights > 0, logprobs - batch.ref_logprobs, 0.0)
    expected = np.zeros(batch.shape)
    for row in range(batch.shape[0]):
        for pair in range(PER_ROW):
            chosen, rejected = ((batch.sequence[row] == 2 * pair + i) * batch.weights[row] for i in (0, 1))
            margin = beta * (delta[row] * (chosen - rejected)).sum()
            expected[row] -= beta / (1 + np.exp(margin)) * (chosen - rejected)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-7)


def test_padding_counts_for_nothing():
    batch = make_batch()
    logprobs = random_logprobs(batch)
    padding = Batch.empty(3, LENGTH)
    padded = jax.tree.map(lambda a, b: np.concatenate([a, b]), batch, padding)
    more = jnp.concatenate([logprobs, jnp.full((3, LENGTH), -5.0, jnp.float32)])
    assert loss(more, padded, sft_coef=0.2)[0] == pytest.approx(float(loss(logprobs, batch, sft_coef=0.2)[0]))
    assert float(objective(0.3, 0.2)(more[-3:], more[-3:], padding).total) == 0


def test_a_sum_per_sequence():
    values = jnp.asarray([[1.0, 2.0, 4.0, 8.0]], jnp.float32)
    sequence = jnp.asarray([[0, -1, 2, 0]], jnp.int32)
    np.testing.assert_array_equal(sequence_sums(values, sequence, 3), [[9.0, 0.0, 4.0]])
    np.testing.assert_array_equal(own_sums(values, sequence), [[9.0, 0.0, 4.0, 9.0]])
