"""One train step: what a bad batch may not do, and half precision with float32 masters."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from numbered import LENGTH, ROWS, TRAINING, batch_of

from mirothinker_jax.models.spec import ModelSpec
from mirothinker_jax.objectives.sft import sft
from mirothinker_jax.parallel.placement import to_global
from mirothinker_jax.trainer.optimizer import make_optimizer
from mirothinker_jax.trainer.reference import make_reference
from mirothinker_jax.trainer.state import init_state
from mirothinker_jax.trainer.step import make_gradient, make_logprobs, make_step
from mirothinker_jax.types import Batch

pytestmark = pytest.mark.usefixtures("relaxed_promotion")  # optax mixes dtypes

OPTIMIZER = make_optimizer(TRAINING.optimizer, TRAINING.steps)


def host(tree):
    """A copy: the step donates its state."""
    return jax.tree.map(lambda x: np.array(x, copy=True), tree)


class Stepper:
    def __init__(self, model, objective=sft, optimizer=OPTIMIZER, params=None):
        self.model = model
        self.state = init_state(model, optimizer, params or tiny.params(model.config))
        self._step = make_step(model, objective, optimizer)

    def __call__(self, batch):
        """Figures of one step on numpy rows, two at a time."""
        placed, used = to_global(self.model.mesh, batch, 2, 2)
        with jax.set_mesh(self.model.mesh):
            self.state, figures = self._step(self.state, placed, used)
        return {name: float(value) for name, value in figures.items()}


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_a_batch_that_is_not_finite_changes_nothing_but_the_counts(model, poison):
    stepper = Stepper(model)
    stepper(batch_of(0))
    before = host(stepper.state)
    bad = batch_of(1)
    bad.weights[1, 3] = poison
    figures = stepper(bad)
    assert not np.isfinite(figures["loss"]) or not np.isfinite(figures["grad_norm"])
    after = host(stepper.state)
    tiny.assert_equal((after.params, after.opt_state), (before.params, before.opt_state))
    assert (int(after.step), int(after.skipped)) == (2, 1) and figures["skipped"] == 1
    figures = stepper(batch_of(1))
    assert np.isfinite(figures["loss"]) and (int(stepper.state.step), int(stepper.state.skipped)) == (3, 1)
    changed = jax.tree.map(lambda a, b: np.any(a != b), host(stepper.state.params), after.params)
    assert all(jax.tree.leaves(changed))


def test_a_skipped_batch_leaves_no_trace_in_what_follows(model):
    """Batches 0, bad, 1 end where 0, 1 end."""
    with_bad, without = Stepper(model), Stepper(model)
    bad = batch_of(7)
    bad.weights[0, 5] = np.nan
    for batch in (batch_of(0), bad, batch_of(1)):
        with_bad(batch)
    for batch in (batch_of(0), batch_of(1)):
        without(batch)
    tiny.assert_equal(host(with_bad.state.params), host(without.state.params))
    tiny.assert_equal(host(with_bad.state.opt_state), host(without.state.opt_state))


def test_figures_of_a_step(model):
    stepper = Stepper(model)
    batch = batch_of(0)
    with jax.set_mesh(model.mesh):
        logprobs = np.asarray(make_logprobs(model)(tiny.params(tiny.QWEN3), batch))
    figures = stepper(batch)
    weight = batch.weights.sum()
    assert figures["denominator"] == weight
    assert figures["loss"] == pytest.approx(-(logprobs * batch.weights).sum() / weight, rel=1e-5)
    assert (
        figures["grad_norm"] > 0 and figures["skipped"] == 0 and 0 < figures["entropy"] < np.log(tiny.VOCAB)
    )


def test_a_step_without_a_trained_token_changes_nothing(model):
    """Also where the optimizer has momentum from steps before it."""
    stepper = Stepper(model)
    stepper(batch_of(0))
    before = host(stepper.state)
    figures = stepper(Batch.empty(ROWS, LENGTH))
    assert (figures["loss"], figures["denominator"], figures["skipped"], figures["grad_norm"]) == (0, 0, 1, 0)
    after = host(stepper.state)
    tiny.assert_equal(after.params, before.params)
    tiny.assert_equal(after.opt_state, before.opt_state)


def test_bfloat16_compute_with_float32_masters_trains():
    config = dataclasses.replace(tiny.QWEN3, compute_dtype="bfloat16", remat="full")
    stepper = Stepper(ModelSpec.build(config, tiny.VOCAB, tiny.mesh()))
    losses = [stepper(batch_of(0))["loss"] for _ in range(TRAINING.steps)]
    assert losses[0] > 4 and losses[-1] < 0.85 * losses[0]
    assert sorted(losses, reverse=True) == losses
    assert {x.dtype for x in jax.tree.leaves(stepper.state.params)} == {jnp.dtype("float32")}
    moments = [x for x in jax.tree.leaves(stepper.state.opt_state) if x.ndim]
    assert {x.dtype for x in moments} == {jnp.dtype("float32")}


@pytest.mark.parametrize(("dtype", "apart"), [("float32", 1e-6), ("bfloat16", 2**-8)])
def test_gradients_of_micro_batches_add_up_in_float32(dtype, apart):
    """Those of each micro-batch by itself, and none of one beyond the count; apart by what a gradient is rounded."""
    model = ModelSpec.build(dataclasses.replace(tiny.QWEN3, param_dtype=dtype), tiny.VOCAB, tiny.mesh())
    params = jax.tree.map(lambda x: jnp.asarray(x, dtype), host(tiny.params(tiny.QWEN3)))
    undivided = {"denominator": np.zeros((ROWS, LENGTH), np.float32)}
    rows = [dataclasses.replace(batch_of(n), **undivided) for n in range(3)]
    gradient = jax.jit(make_gradient(model, sft))
    with jax.set_mesh(model.mesh):
        stacked = jax.tree.map(lambda *x: np.stack(x), *rows)
        (loss, _), summed = gradient(params, stacked, jnp.int32(2))
        each = [gradient(params, jax.tree.map(lambda x: x[None], r), jnp.int32(1)) for r in rows[:2]]
    assert {x.dtype for x in jax.tree.leaves(summed)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(loss, sum(out[0] for out, _ in each), rtol=1e-6)
    expected = jax.tree.map(lambda *g: sum(np.asarray(x, np.float32) for x in g), *(g for _, g in each))
    for got, wanted in zip(jax.tree.leaves(summed), jax.tree.leaves(expected), strict=True):
        assert np.linalg.norm(got - wanted) <= apart * np.linalg.norm(wanted)
    coarse = [np.array_equal(g, np.asarray(g).astype(jnp.bfloat16)) for g in jax.tree.leaves(summed)]
    assert not any(coarse)


def test_bfloat16_parameters_move_as_float32_ones_do():
    """By updates of a hundredth of their distances: rounded to the nearest, none of them would move at all."""
    slow = make_optimizer(dataclasses.replace(TRAINING.optimizer, learning_rate=2e-6, weight_decay=0.0), 10)
    start = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), host(tiny.params(tiny.QWEN3)))
    moved = {}
    for dtype in ("float32", "bfloat16"):
        model = ModelSpec.build(dataclasses.replace(tiny.QWEN3, param_dtype=dtype), tiny.VOCAB, tiny.mesh())
        params = jax.tree.map(lambda x, to=dtype: jnp.asarray(x, to), start)
        stepper = Stepper(model, optimizer=slow, params=params)
        for _ in range(10):
            stepper(batch_of(0))
        assert {str(x.dtype) for x in jax.tree.leaves(stepper.state.params)} == {dtype}
        assert {str(x.dtype) for x in jax.tree.leaves(stepper.state.opt_state) if x.ndim} == {"float32"}
        ends = jax.tree.leaves(host(stepper.state.params))
        moved[dtype] = np.concatenate(
            [(e.astype(np.float32) - b).ravel() for e, b in zip(ends, jax.tree.leaves(start), strict=True)]
        )
    along = moved["bfloat16"] @ moved["float32"] / (moved["float32"] @ moved["float32"])
    assert 0.7 < along < 1.3


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("rows", [0, 1, 3, 4])
def test_reference_log_probs_are_filled_in(model, rows, shared):
    """Also where the rows do not fill the last micro-batch, and where there are none."""
    params = tiny.params(tiny.QWEN3)
    batch = jax.tree.map(lambda x: x[:rows], batch_of(2))
    filled = make_reference(model, params, 2, shared)(batch)
    tiny.assert_equal(dataclasses.replace(filled, ref_logprobs=batch.ref_logprobs), batch)
    with jax.set_mesh(model.mesh):
        expected = np.asarray(make_logprobs(model)(params, batch_of(2)))[:rows]
    assert filled.ref_logprobs.shape == batch.shape
    np.testing.assert_allclose(filled.ref_logprobs, expected, rtol=1e-6)


def test_a_reference_in_the_hosts_memory_outlives_the_parameters_it_was_made_from(model):
    stepper = Stepper(model)
    expected = make_reference(model, stepper.state.params, 2, False)(batch_of(2)).ref_logprobs
    reference = make_reference(model, stepper.state.params, 2, False, offload=True)
    stepper(batch_of(0))  # donates them
    np.testing.assert_array_equal(reference(batch_of(2)).ref_logprobs, expected)


def test_averages_that_wait_in_the_hosts_memory_change_nothing(model):
    settings = dataclasses.replace(TRAINING.optimizer, offload=True)
    offloaded = Stepper(model, optimizer=make_optimizer(settings, TRAINING.steps))
    here = Stepper(model)
    for number in range(3):
        assert offloaded(batch_of(number)) == here(batch_of(number))
    tiny.assert_equal(host(offloaded.state), host(here.state))
    kinds = lambda state: {x.sharding.memory_kind for x in jax.tree.leaves(state) if x.ndim}  # noqa: E731
    assert kinds(offloaded.state.opt_state) == {"pinned_host"}
    assert kinds(offloaded.state.params) == kinds(here.state.opt_state) == {"device"}
