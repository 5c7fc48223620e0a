"""Learning rates, clipping, and what weight decay leaves alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from mirothinker_jax.config import OptimizerConfig
from mirothinker_jax.trainer.optimizer import make_optimizer, make_schedule
from mirothinker_jax.trainer.update import update

pytestmark = pytest.mark.usefixtures("relaxed_promotion")  # optax mixes dtypes


def rates(steps=20, **fields):
    schedule = make_schedule(OptimizerConfig(learning_rate=1.0, **fields), steps)
    return np.asarray([float(schedule(i)) for i in range(steps)])


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
def test_warm_up_reaches_the_peak_and_the_end_is_what_was_asked_for(kind):
    got = rates(schedule=kind, warmup_fraction=0.25, final_fraction=0.1)
    np.testing.assert_allclose(got[:6], [(1 + 5 * i / 5) / 6 for i in range(6)], rtol=1e-6)
    assert got[0] > 0, "the first update would be lost"
    assert got[5] == 1.0 == got.max()
    assert got[-1] == pytest.approx(1.0 if kind == "constant" else 0.1)
    # 14 updates lie between the peak and the last.
    if kind == "cosine":
        np.testing.assert_allclose(got[5 + 7], 0.1 + 0.9 / 2, rtol=1e-6)
    if kind == "linear":
        np.testing.assert_allclose(got[5 + 7], 1 - 0.9 / 2, rtol=1e-6)


def test_without_warm_up_the_peak_comes_first():
    assert rates(warmup_fraction=0.0)[0] == 1.0


@pytest.mark.parametrize(
    ("steps", "warmup", "expected"), [(1, 0.0, [1]), (2, 0.0, [1, 0]), (2, 0.9, [0.5, 1])]
)
def test_runs_of_a_step_or_two(steps, warmup, expected):
    """A run without an update after the peak ends at the peak, however long its warm-up."""
    got = rates(steps, schedule="linear", warmup_fraction=warmup, final_fraction=0.0)
    np.testing.assert_allclose(got, expected, atol=1e-7)


@pytest.mark.parametrize(("clip_norm", "factor"), [(2.0, 0.2), (1e9, 1.0)])
def test_the_global_norm_is_clipped(clip_norm, factor):
    """Layers of norms 6 and 0 and a table of 8: 10 in all; AdamW's first average shows what it was given."""
    optimizer = make_optimizer(OptimizerConfig(clip_norm=clip_norm, b1=0.9), 10)
    layers, table = jnp.asarray([[3.0] * 4, [0.0] * 4], jnp.float32), jnp.full((2, 2), 4.0, jnp.float32)
    gradients = {"blocks": {"kernel": layers}, "embedding": table}
    params = jax.tree.map(jnp.zeros_like, gradients)
    key = jax.random.key(0)
    _, state = update(optimizer, gradients, optimizer.init(params), params, jnp.asarray(True), key)
    (adam,) = [s for s in jax.tree.leaves(state, is_leaf=lambda s: hasattr(s, "mu")) if hasattr(s, "mu")]
    assert int(adam.count) == 1
    np.testing.assert_allclose(adam.mu["blocks"]["kernel"], 0.1 * factor * layers, rtol=1e-6)
    np.testing.assert_allclose(adam.mu["embedding"], 0.1 * factor * table, rtol=1e-6)


@pytest.mark.parametrize("config", [tiny.QWEN3, tiny.QWEN2], ids=["qwen3", "qwen2.5"])
def test_norms_and_biases_are_not_decayed(config):
    """Without a gradient the others shrink by learning rate × decay, and these stay, bit by bit."""
    settings = OptimizerConfig(learning_rate=0.5, schedule="constant", warmup_fraction=0.0, weight_decay=0.2)
    optimizer = make_optimizer(settings, 10)
    params = tiny.params(config)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = jax.jit(optimizer.update)(zeros, optimizer.init(params), params)
    kept = set()

    def check(path, update, param):
        if path[-1].key in ("weight", "bias"):
            kept.add(".".join(p.key for p in path))
            assert not np.any(update), path
        else:
            np.testing.assert_allclose(update, -0.1 * param, rtol=1e-5)

    jax.tree_util.tree_map_with_path(check, updates, params)
    assert {"norm.weight", "blocks.attention_norm.weight", "blocks.mlp_norm.weight"} <= kept
    family = "blocks.attention.q_norm.weight" if config is tiny.QWEN3 else "blocks.attention.q.bias"
    assert family in kept


def test_updates_follow_adamw():
    """Two steps by the book: bias-corrected averages, decay outside them, the schedule's rate."""
    settings = OptimizerConfig(learning_rate=0.1, schedule="constant", warmup_fraction=0.0, clip_norm=1e9)
    optimizer = make_optimizer(settings, 10)
    params = {"kernel": jnp.asarray([1.0, -2.0], jnp.float32)}
    state, x = optimizer.init(params), np.asarray([1.0, -2.0])
    mean = square = np.zeros(2)
    for step, gradient in enumerate(([0.3, -4.0], [1.0, 2.0]), 1):
        g = np.asarray(gradient)
        updates, state = optimizer.update({"kernel": jnp.asarray(g, jnp.float32)}, state, params)
        params = optax.apply_updates(params, updates)
        mean, square = 0.9 * mean + 0.1 * g, 0.95 * square + 0.05 * g * g
        direction = mean / (1 - 0.9**step) / (np.sqrt(square / (1 - 0.95**step)) + 1e-8)
        x = x - 0.1 * (direction + 0.1 * x)
    np.testing.assert_allclose(params["kernel"], x, rtol=1e-5)
