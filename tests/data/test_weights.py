"""Weights and denominators: golden means, however the sequences are laid out."""

import numpy as np
import pytest

from mirothinker_jax.data.packing import Sample, pack_rows
from mirothinker_jax.data.weights import loss_weights

AGGREGATES = {  # golden means, of sequences with losses 1 2 3 4, 5 6, and one without a trained token
    "token-mean": 3.5,
    "token-sum": 21.0,
    "seq-mean-token-sum": 10.5,
    "seq-mean-token-mean": 4.0,
}


def sample(losses, trained=True):
    """Each token but the first is its own loss."""
    tokens = np.asarray([0, *losses], np.int32)
    return Sample(tokens, np.full(len(tokens), trained))


SAMPLES = [sample([1, 2, 3, 4]), sample([5, 6]), sample([7], trained=False)]


@pytest.mark.parametrize("how", AGGREGATES)
@pytest.mark.parametrize("length", [5, 8, 32])
@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("rows", [1, 4])
def test_golden_means(how, length, order, rows):
    """Of one row or several, in any order, with rows of padding or without."""
    batch = pack_rows(SAMPLES[::order], length, rows, aggregate=how)
    divisor = float(batch.denominator.sum()) or 1.0
    assert (batch.weights * batch.targets).sum() / divisor == pytest.approx(AGGREGATES[how], rel=1e-6)
    assert np.array_equal(np.sort(batch.targets[batch.weights > 0]), [1, 2, 3, 4, 5, 6])


@pytest.mark.parametrize("how", AGGREGATES)
def test_a_sequence_without_a_trained_token_adds_nothing(how):
    for n in (0, 3):
        weights, denominator = loss_weights(np.zeros(n, bool), how)
        assert weights.dtype == denominator.dtype == np.float32
        assert not weights.any() and not denominator.any()
