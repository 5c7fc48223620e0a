"""A mixture of experts on every layout of the mesh: one device's loss, gradients and routes; nothing is dropped."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from rows import DPO, GRPO, LENGTH, packed, preferences

from mirothinker_jax.config import OptimizerConfig
from mirothinker_jax.models.qwen import merge
from mirothinker_jax.models.spec import ModelSpec
from mirothinker_jax.objectives.sft import sft
from mirothinker_jax.parallel.attend import make_attend
from mirothinker_jax.parallel.placement import to_global
from mirothinker_jax.parallel.sharding import batch_sharding, replicated_sharding
from mirothinker_jax.trainer.optimizer import make_optimizer
from mirothinker_jax.trainer.state import init_state
from mirothinker_jax.trainer.step import make_gradient, make_step
from mirothinker_jax.types import LossOutput

RELATIVE = 1e-5
LAYOUTS = {
    "expert 8": {"expert": 8},
    "expert 4 x tensor 2": {"expert": 4, "tensor": 2},
    "expert 2 x fsdp 2 x context 2": {"expert": 2, "fsdp": 2, "context": 2},
    "data 2 x tensor 2 x context 2": {"data": 2, "tensor": 2, "context": 2},
}


def gradient(mesh, params, rows, microbatch_size=8, objective=sft, config=tiny.MOE):
    model = ModelSpec.build(config, tiny.VOCAB, mesh)
    shardings = (model.shardings, batch_sharding(mesh, leading=1), replicated_sharding(mesh))
    run = jax.jit(make_gradient(model, objective), in_shardings=shardings)
    with jax.set_mesh(mesh):
        return run(jax.device_put(params, model.shardings), *to_global(mesh, rows, microbatch_size, 1))


@pytest.fixture(scope="module")
def params():
    return tiny.params(tiny.MOE)


@pytest.fixture(scope="module")
def expected(params):
    return gradient(tiny.mesh(), params, packed())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_gives_the_loss_and_gradients_of_one_device(params, expected, layout):
    assert all(np.any(g) for g in jax.tree.leaves(expected[1]))
    tiny.assert_close(gradient(tiny.mesh(**LAYOUTS[layout]), params, packed()), expected, RELATIVE)


@pytest.mark.slow
def test_so_do_micro_batches(params):
    """Of four rows each, by which the balance loss is averaged."""
    mesh = tiny.mesh(**LAYOUTS["expert 2 x fsdp 2 x context 2"])
    expected = gradient(tiny.mesh(), params, packed(), microbatch_size=4)
    tiny.assert_close(gradient(mesh, params, packed(), microbatch_size=4), expected, RELATIVE)


def test_the_balance_loss_counts_whole_however_tokens_are_averaged(params):
    """Beside a sum that nothing divides too, and of two micro-batches."""
    silent = lambda logprobs, entropy, batch: LossOutput(0.0 * logprobs.sum(), {})  # noqa: E731
    expected = gradient(tiny.mesh(), params, packed(), 4, silent)
    balance, weight = expected[0][1]["router/balance"]
    assert float(expected[0][0]) == pytest.approx(0.1 * float(balance / weight), rel=1e-6)
    for how in ("token-sum", "seq-mean-token-mean"):
        rows = packed(aggregate=how)
        tiny.assert_close(gradient(tiny.mesh(), params, rows, 4, silent), expected, 1e-6)


def test_every_choice_is_counted_once(params, expected):
    """The load over experts, summed: k for every token of a sample, none for padding."""
    figures = expected[0][1]
    assert figures["router/busiest"][0] / figures["router/busiest"][1] >= 1
    batch = packed()
    model = ModelSpec.build(tiny.MOE, tiny.VOCAB, tiny.mesh())
    with jax.set_mesh(model.mesh):
        _, _, routing = jax.jit(
            lambda p: merge(model.graph, p)(
                batch.tokens, batch.positions, make_attend(batch.spans), counts=batch.sequence >= 0
            )
        )(params)
    tokens = (batch.sequence >= 0).sum()
    assert 0 < tokens < batch.sequence.size
    np.testing.assert_array_equal(np.asarray(routing.load).sum(-1), 3 * tokens)
    np.testing.assert_allclose(np.asarray(routing.probability).sum(-1), tokens, rtol=1e-5)
    assert routing.chosen.shape == (2, 8, LENGTH, 3)


def test_replayed_routes_give_the_same_and_other_routes_another_result(params):
    """The router's own choice, given back, changes nothing; any other choice does; −1 is the router's own."""
    batch, mesh = packed(), tiny.mesh(expert=4, data=2)
    model = ModelSpec.build(tiny.MOE, tiny.VOCAB, mesh)

    @jax.jit
    def run(params, routes):
        module = merge(model.graph, params)
        hidden, _, routing = module(batch.tokens, batch.positions, make_attend(batch.spans), routes=routes)
        return hidden, jnp.moveaxis(routing.chosen, 0, 2)

    with jax.set_mesh(mesh):
        placed = jax.device_put(params, model.shardings)
        free, chosen = run(placed, None)
        tiny.assert_close(run(placed, chosen)[0], free, 1e-6)
        other, replayed = run(placed, (np.asarray(chosen) + 1) % 8)
        tiny.assert_close(run(placed, np.full(chosen.shape, -1, np.int16))[0], free, 1e-6)
    np.testing.assert_array_equal(replayed, (np.asarray(chosen) + 1) % 8)
    assert np.abs(np.asarray(other) - np.asarray(free)).max() > 1e-2


@pytest.mark.usefixtures("relaxed_promotion")  # optax mixes dtypes
@pytest.mark.parametrize(
    ("objective", "rows"),
    [
        (sft, packed()),
        pytest.param(DPO, preferences(), marks=pytest.mark.slow),
        pytest.param(GRPO, packed(), marks=pytest.mark.slow),
    ],
)
def test_a_step_of_each_objective_on_expert_parallel_devices(params, objective, rows):
    """Expert 4 × fsdp 2: the parameters after a step are those of one device."""
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1e-2, warmup_fraction=0.0, eps=1e-3), 4)

    def stepped(mesh):
        model = ModelSpec.build(tiny.MOE, tiny.VOCAB, mesh)
        state = init_state(model, optimizer, jax.device_put(tiny.params(tiny.MOE), model.shardings))
        with jax.set_mesh(mesh):
            state, figures = make_step(model, objective, optimizer)(state, *to_global(mesh, rows, 8, 1))
        return jax.device_get(state.params), float(figures["grad_norm"])

    one, norm = stepped(tiny.mesh())
    many, norm_of_many = stepped(tiny.mesh(expert=4, fsdp=2))
    assert norm_of_many == pytest.approx(norm, rel=1e-4)
    moved = max(
        np.abs(a - b).max() for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(params), strict=True)
    )
    apart = max(np.abs(a - b).max() for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True))
    # Compared with how far a step goes. A smaller eps would make Adam's first step the gradient's sign, whatever the
    # gradient's size, and so its rounding.
    assert apart <= 1e-3 * moved
