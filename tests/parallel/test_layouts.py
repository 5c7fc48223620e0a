"""One device, every mesh layout, every packing and every number of micro-batches: one loss, one gradient."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny
from edited import Episode, keep_last
from rows import DPO, GRPO, GSPO, LENGTH, LENGTHS, ROWS, packed, preferences

from mirothinker_jax.config import ContextConfig, OptimizerConfig
from mirothinker_jax.data.packing import Sample, pack_pairs, pack_rows
from mirothinker_jax.models.spec import ModelSpec
from mirothinker_jax.objectives.sft import sft
from mirothinker_jax.parallel.placement import to_global
from mirothinker_jax.parallel.sharding import batch_sharding, replicated_sharding
from mirothinker_jax.trainer.optimizer import make_optimizer
from mirothinker_jax.trainer.state import init_state
from mirothinker_jax.trainer.step import make_gradient, make_logprobs, make_step
from mirothinker_jax.trajectory.tree import trees
from mirothinker_jax.types import Batch

LAYOUTS = {
    "data 8": {"data": 8},
    "fsdp 8": {"fsdp": 8},
    "context 8": {"context": 8},
    "tensor 2 x fsdp 4": {"tensor": 2, "fsdp": 4},
    "fsdp 2 x context 2 x tensor 2": {"fsdp": 2, "context": 2, "tensor": 2},
    "expert 2 x data 2 x context 2": {"expert": 2, "data": 2, "context": 2},
}
# Micro-batches' gradients add up in place, where the transpose of a shard_map meets a reference: on every axis.
IN_BATCHES = [
    *((layout, 1) for layout in LAYOUTS),
    ("fsdp 2 x context 2 x tensor 2", 2),
    ("expert 2 x data 2 x context 2", 2),
]
RELATIVE = 1e-5


class Gradient:
    """Loss and gradients on a mesh, compiled as the train step does it."""

    def __init__(self, mesh, config=tiny.QWEN3):
        self.mesh, self.model = mesh, ModelSpec.build(config, tiny.VOCAB, mesh)
        shardings = (self.model.shardings, batch_sharding(mesh, leading=1), replicated_sharding(mesh))
        self._run = jax.jit(make_gradient(self.model, sft), in_shardings=shardings)

    def __call__(self, params, rows, microbatch_size=ROWS, least=1):
        """((loss, metrics), gradients) of numpy rows, in at least `least` micro-batches."""
        return self.with_shardings(params, *to_global(self.mesh, rows, microbatch_size, least))

    def with_shardings(self, params, batch, used):
        with jax.set_mesh(self.mesh):
            return self._run(jax.device_put(params, self.model.shardings), batch, used)


@pytest.fixture(scope="module")
def one_device():
    return Gradient(tiny.mesh())


@pytest.fixture(scope="module")
def params():
    return tiny.params(tiny.QWEN3)


@pytest.mark.parametrize(("layout", "batches"), IN_BATCHES)
def test_a_layout_gives_the_loss_and_gradients_of_one_device(one_device, params, layout, batches):
    expected = one_device(params, packed())
    assert all(np.any(g) for g in jax.tree.leaves(expected[1]))
    got = Gradient(tiny.mesh(**LAYOUTS[layout]))(params, packed(), ROWS // batches)
    tiny.assert_close(got, expected, RELATIVE)


@pytest.mark.parametrize(
    "context",
    [
        ContextConfig(),
        ContextConfig("ring"),
        ContextConfig("all-gather"),
        ContextConfig("ring", ulysses=2),
        ContextConfig("auto", ulysses=4),
    ],
    ids=lambda c: f"{c.keys}-{c.ulysses}",
)
def test_so_does_every_way_to_meet_the_keys_of_others(one_device, params, context):
    """Of packed rows that eight devices share."""
    ways = Gradient(tiny.mesh(context=8), dataclasses.replace(tiny.QWEN3, context=context))
    tiny.assert_close(ways(params, packed()), one_device(params, packed()), RELATIVE)


@pytest.mark.slow
@pytest.mark.usefixtures("relaxed_promotion")  # optax mixes dtypes
def test_their_training_curves_coincide(params):
    """Twelve steps of AdamW, of one device and of eight: by the ring, by gathered keys, by exchanged heads alone."""
    settings = OptimizerConfig(learning_rate=3e-3, schedule="constant", warmup_fraction=0.0)

    def curve(mesh, context):
        model = ModelSpec.build(dataclasses.replace(tiny.QWEN3, context=context), tiny.VOCAB, mesh)
        optimizer = make_optimizer(settings, 1)
        placed, used = to_global(mesh, packed(), ROWS, 1)
        losses = []
        with jax.set_mesh(mesh):
            # The step donates its state: each run gets parameters of its own.
            state = init_state(
                model, optimizer, jax.device_put(jax.tree.map(np.array, params), model.shardings)
            )
            step = make_step(model, sft, optimizer)
            for _ in range(12):
                state, figures = step(state, placed, used)
                losses.append(float(figures["loss"]))
        return losses

    ways = [ContextConfig("ring"), ContextConfig("all-gather"), ContextConfig(ulysses=4)]
    expected = curve(tiny.mesh(), ContextConfig())
    assert expected[-1] < 0.8 * expected[0]
    for context in ways:
        np.testing.assert_allclose(curve(tiny.mesh(fsdp=2, context=4), context), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("layout", "tokens"),
    [({}, 7), ({"context": 8}, 3), ({"fsdp": 2, "context": 2, "tensor": 2}, 5), ({"data": 8}, 1000)],
    ids=str,
)
def test_so_does_a_feed_forward_block_in_chunks(one_device, params, layout, tokens):
    """Of numbers of tokens that do not divide a device's, and of more than it has."""
    chunks = Gradient(tiny.mesh(**layout), dataclasses.replace(tiny.QWEN3, ffn_tokens=tokens))
    tiny.assert_close(chunks(params, packed()), one_device(params, packed()), RELATIVE)


@pytest.mark.parametrize(
    ("objective", "rows"),
    [(DPO, preferences()), (GRPO, packed(aggregate="seq-mean-token-mean")), (GSPO, packed())],
    ids=["dpo", "grpo", "gspo"],
)
def test_sums_over_a_sequence_do_not_depend_on_where_its_tokens_lie(objective, rows):
    """DPO and GRPO add up over sequences, which a context axis cuts: the loss and its gradient."""
    rng = np.random.default_rng(3)
    logprobs = np.where(rows.weights > 0, -rng.uniform(1, 5, rows.shape), 0.0).astype(np.float32)

    def loss(logprobs, batch):
        out = objective(logprobs, -logprobs, batch)
        return out.total, out

    run = jax.jit(jax.value_and_grad(loss, has_aux=True))
    expected = run(logprobs, rows)
    mesh = tiny.mesh(**LAYOUTS["fsdp 2 x context 2 x tensor 2"])
    with jax.set_mesh(mesh):
        got = run(*jax.device_put((logprobs, rows), batch_sharding(mesh)))
    assert np.any(expected[1])
    tiny.assert_close(got, expected, RELATIVE)


@pytest.mark.parametrize(
    ("microbatch_size", "least"), [(4, 2), (2, 8)], ids=["two", "four and room for eight"]
)
@pytest.mark.parametrize("how", ["token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-mean"])
def test_micro_batches_add_up(one_device, params, microbatch_size, least, how):
    rows = packed(aggregate=how)
    expected = one_device(params, rows)
    tiny.assert_close(one_device(params, rows, microbatch_size, least), expected, RELATIVE)


def test_micro_batches_beyond_the_count_are_not_reached(one_device, params):
    batch, used = to_global(one_device.mesh, packed(), 2, 8)
    assert (batch.shape[0], used) == (8, 4)
    poisoned = dataclasses.replace(batch, weights=batch.weights.at[5].set(np.nan))
    clean = one_device.with_shardings(params, batch, used)
    tiny.assert_equal(one_device.with_shardings(params, poisoned, used), clean)
    (loss, _), _ = one_device.with_shardings(params, poisoned, np.int32(6))
    assert np.isnan(loss), "the poison would not show even where it is reached"


def test_no_micro_batch_at_all_gives_zeros(one_device, params):
    (loss, _), gradients = one_device(params, Batch.empty(0, LENGTH), 4, 2)
    assert loss == 0
    assert not any(np.any(g) for g in jax.tree.leaves(gradients))


def test_packing_changes_neither_loss_nor_gradients(one_device, params):
    """A sample in a row of its own, in a row with others, and in another order."""
    samples = tiny.samples(0, LENGTHS)
    alone = Batch.empty(len(samples), LENGTH)
    for row, sample in enumerate(samples):
        one = pack_rows([sample], LENGTH)
        jax.tree.map(lambda a, b, row=row: a.__setitem__(row, b[0]), alone, one)
    expected = one_device(params, alone, microbatch_size=2, least=8)
    tiny.assert_close(one_device(params, packed()), expected, RELATIVE)
    backwards = pack_rows(samples[::-1], LENGTH, ROWS)
    tiny.assert_close(one_device(params, backwards), expected, RELATIVE)


@pytest.mark.parametrize("layout", ["fsdp 2 x context 2 x tensor 2", "data 8"])
def test_so_does_a_mean_of_sequences(one_device, params, layout):
    """Whose tokens a context axis cuts, and whose number each device sees a part of."""
    rows = packed(aggregate="seq-mean-token-mean")
    expected = one_device(params, rows)
    assert float(expected[0][0]) != pytest.approx(float(one_device(params, packed())[0][0]), rel=1e-3)
    tiny.assert_close(Gradient(tiny.mesh(**LAYOUTS[layout]))(params, rows), expected, RELATIVE)


def test_a_shared_prompt_gives_the_log_probs_of_two_whole_sequences(params):
    """Branches of a trunk against prompt + continuation, each in a row of its own."""
    pairs = tiny.pairs(1, [(5, 4, 7), (3, 6, 2)])
    model = ModelSpec.build(tiny.QWEN3, tiny.VOCAB, tiny.mesh())
    shared = pack_pairs(pairs, LENGTH, 2)
    whole = [np.concatenate([p.prompt, branch.tokens]) for p in pairs for branch in (p.chosen, p.rejected)]
    apart = [pack_rows([Sample(tokens, np.ones(len(tokens), bool))], LENGTH) for tokens in whole]
    rows = jax.tree.map(lambda *x: np.concatenate(x), shared, *apart)
    with jax.set_mesh(model.mesh):
        logprobs = np.asarray(make_logprobs(model)(params, rows))
    for sequence in range(len(whole)):
        where = (shared.sequence[0] == sequence) & (shared.weights[0] > 0)
        pair = pairs[sequence // 2]
        first, count = len(pair.prompt) - 1, where.sum()
        assert count == len((pair.chosen, pair.rejected)[sequence % 2])
        expected = logprobs[1 + sequence, first : first + count]
        np.testing.assert_allclose(logprobs[0, where], expected, rtol=1e-5)


def restarted():
    """Turns taken back, a result that is hidden and shown again, and a fresh start."""
    episode = Episode()
    episode.prompt(3)
    for tokens in (2, 1):
        episode.turn(tokens)
        episode.take_back()
    episode.turn(2)
    episode.observe(3)
    episode.hide([0], 1)
    episode.turn(1)
    episode.hide([], 1)
    episode.turn(2)
    episode.restart()
    episode.turn(2)
    return episode


@pytest.mark.parametrize(
    "episode",
    [keep_last(5, last=1), keep_last(6, last=1, high=3, sizes=(2, 1, 2, 1)), restarted()],
    ids=["keep 1", "with hysteresis", "rollback and restart"],
)
def test_edited_contexts_give_the_gradients_of_a_row_for_each_turn(one_device, params, episode):
    """Trunks and branches against every turn alone behind its context."""
    segments, turns = episode.segments, episode.turns
    found = trees(segments, turns, LENGTH, advantage=1.0)
    assert sum(len(tree.branches) for tree in found) >= 1
    alone = []
    for turn in turns:
        context = [token for i in turn.context for token in segments[i].tokens]
        own = segments[turn.segment].tokens
        alone.append(Sample(np.asarray([*context, *own]), np.arange(len(context) + len(own)) >= len(context)))
    expected = one_device(params, pack_rows(alone, LENGTH, ROWS))
    assert all(np.any(g) for g in jax.tree.leaves(expected[1]))
    tiny.assert_close(one_device(params, pack_rows(found, LENGTH, ROWS)), expected, RELATIVE)
