"""SFT's loss against a dense computation."""

import jax.numpy as jnp
import numpy as np
import tiny

from mirothinker_jax.data.packing import pack_rows
from mirothinker_jax.objectives.sft import sft


def test_the_mean_over_trained_tokens_by_hand():
    """Two samples of one row: tokens a b c (c trained) and d e (both trained; nothing predicts d)."""
    first, second = tiny.samples(0, (3, 2))
    first.trained[:], second.trained[:] = [False, False, True], [True, True]
    batch = pack_rows([first, second], 6)
    # Position 1 asks for c and position 3 for e; the others are not trained.
    np.testing.assert_array_equal(batch.weights, [[0, 1, 0, 1, 0, 0]])
    logprobs = jnp.asarray([[-9.0, -1.5, -9.0, -0.25, -9.0, -9.0]], jnp.float32)
    out = sft(logprobs, jnp.full((1, 6), 2.0, jnp.float32), batch)
    assert (float(out.total), batch.denominator.sum()) == (1.75, 2.0)
    total, weight = out.metrics["entropy"]
    assert (float(total), float(weight)) == (4.0, 2.0)


def test_a_dense_computation_on_random_rows():
    batch = pack_rows(tiny.samples(1, (9, 7, 12, 3)), 16)
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(*batch.shape, tiny.VOCAB))
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    picked = np.take_along_axis(logs, batch.targets[..., None], -1)[..., 0]
    out = sft(jnp.asarray(picked, jnp.float32), jnp.zeros(batch.shape, jnp.float32), batch)
    expected = [-picked[r, t] for r, t in zip(*np.nonzero(batch.weights), strict=True)]
    assert batch.denominator.sum() == len(expected) == 9 + 7 + 12 + 3 - 4 * 2
    np.testing.assert_allclose(float(out.total), sum(expected), rtol=1e-6)
