"""The training loop across kills, restarts, bad batches and other meshes."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest
import tiny
from numbered import CONFIG, IDENTITY, STEPS, TRAINING, Killed, Numbered, batch_of

from mirothinker_jax.config import EXECUTION, ConfigError, ContextConfig
from mirothinker_jax.models.spec import ModelSpec
from mirothinker_jax.parallel.placement import to_global
from mirothinker_jax.pipeline.params import StepLost, load_step
from mirothinker_jax.trainer import loop
from mirothinker_jax.trainer.checkpoint import Checkpoints, load_params, model_identity
from mirothinker_jax.trainer.optimizer import make_optimizer, make_schedule
from mirothinker_jax.trainer.state import init_state, state_shardings

pytestmark = pytest.mark.usefixtures("relaxed_promotion")  # optax mixes dtypes


def host(tree):
    return jax.tree.map(lambda x: np.array(x, copy=True), tree)


def lines(job):
    return [json.loads(line) for line in job.log.path.read_text().splitlines()]


def steps_on_disk(job):
    return sorted(int(p.name) for p in (job.folder / "checkpoints").iterdir() if p.name.isdigit())


@pytest.fixture
def whole(job):
    """(job, final state) of a run that nobody disturbed."""
    made = job(Numbered(), folder="whole")
    return made, host(loop.run(made))


def without_clock(records):
    return [{k: v for k, v in r.items() if not k.startswith(("time", "tokens_per_s"))} for r in records]


@pytest.mark.parametrize("kill_at", [1, 3, 5], ids="killed at step {}".format)
def test_a_run_that_was_killed_ends_as_if_it_had_not_been(job, whole, kill_at):
    """Before the first checkpoint and after it: bit-equal state, and one line of metrics for each step."""
    undisturbed, expected = whole
    with pytest.raises(Killed):
        loop.run(first := job(Numbered(kill_at=kill_at)))
    first.log.close()
    source = Numbered()
    second = job(source)
    state = host(loop.run(second))
    assert source.asked[0] == kill_at // 4 * 4, "it did not go on from the newest checkpoint"
    tiny.assert_equal(state, expected)
    assert int(state.step) == STEPS
    assert [r["step"] for r in lines(second)] == list(range(STEPS))
    assert without_clock(lines(second)) == without_clock(lines(undisturbed))


def test_averages_go_back_to_the_hosts_memory_when_a_run_goes_on(job, whole):
    settings = {"optimizer": dataclasses.replace(TRAINING.optimizer, offload=True)}
    with pytest.raises(Killed):
        loop.run(first := job(Numbered(kill_at=5), training=settings))
    first.log.close()
    state = loop.run(job(Numbered(), training=settings))
    assert {x.sharding.memory_kind for x in jax.tree.leaves(state.opt_state) if x.ndim} == {"pinned_host"}
    tiny.assert_equal(host(state), whole[1])


def test_a_run_that_was_killed_goes_on_in_another_way(job, whole):
    """On another mesh, with other micro-batches, another remat and its averages elsewhere: the same numbers but for
    rounding."""
    first = ModelSpec.build(tiny.QWEN3, tiny.VOCAB, tiny.mesh(fsdp=2))
    with pytest.raises(Killed):
        loop.run(killed := job(Numbered(kill_at=5), model=first, initial=lambda: on(first)))
    killed.log.close()
    second = ModelSpec.build(
        dataclasses.replace(tiny.QWEN3, remat="full"), tiny.VOCAB, tiny.mesh(data=2, tensor=2)
    )
    settings = {"microbatch_size": 4, "optimizer": dataclasses.replace(TRAINING.optimizer, offload=True)}
    source = Numbered()
    state = loop.run(job(source, model=second, training=settings))
    assert source.asked == [4, 5]
    tiny.assert_close(host(state), whole[1], 1e-5)


def on(model):
    return jax.device_put(tiny.params(tiny.QWEN3), model.shardings)


@pytest.mark.slow
def test_a_run_is_lengthened(job, whole):
    """Under a schedule that knows no length it ends as one that was that long from the start; others go on from here
    along the longer one."""
    flat = {"optimizer": dataclasses.replace(TRAINING.optimizer, schedule="constant", warmup_fraction=0.0)}
    loop.run(first := job(Numbered(), training=flat | {"steps": 3}))
    first.log.close()
    source = Numbered()
    state = loop.run(job(source, training=flat))
    assert source.asked == [3, 4, 5]
    tiny.assert_equal(host(state), host(loop.run(job(Numbered(), folder="long", training=flat))))
    job_of_six, _ = whole
    job_of_six.log.close()
    rates = [line["learning_rate"] for line in lines(job_of_six)]
    loop.run(longer := job(Numbered(), folder="whole", training={"steps": 8}))
    schedule = make_schedule(TRAINING.optimizer, 8)
    expected = [*rates, float(schedule(6)), float(schedule(7))]
    assert [line["learning_rate"] for line in lines(longer)] == pytest.approx(expected)
    assert rates[-1] < expected[6]


def test_a_run_that_is_done_stays_as_it_is(job, whole):
    first, expected = whole
    first.log.close()
    before = first.log.path.read_bytes()
    source = Numbered()
    again = job(source, folder="whole", initial=lambda: pytest.fail("new parameters were made"))
    tiny.assert_equal(host(loop.run(again)), expected)
    assert source.asked == [] and again.log.path.read_bytes() == before


def test_checkpoints_beyond_the_number_to_keep_are_removed(job, whole):
    assert steps_on_disk(whole[0]) == [4, 6]
    one = job(Numbered(), folder="one", training={"keep_checkpoints": 1})
    loop.run(one)
    assert steps_on_disk(one) == [6]  # the last step is always kept, whatever the interval


def test_lines_of_metrics(whole):
    made, _ = whole
    for step, line in enumerate(lines(made)):
        assert (line["stage"], line["step"], line["figure"], line["skipped"]) == ("sft", step, step, 0)
        assert line["denominator"] == batch_of(step).weights.sum() and line["tokens_per_s"] > 0
        assert {
            "loss",
            "grad_norm",
            "entropy",
            "learning_rate",
            "time/step_s",
            "time/source_s",
        } <= line.keys()
    rates = [line["learning_rate"] for line in lines(made)]
    assert max(rates) == pytest.approx(1e-2) and rates[0] < rates[1] > rates[-1]


class Figure:
    """Of a step on the device: notes when it is read."""

    def __init__(self, number, events):
        self._number, self._events = number, events

    def __array__(self, dtype=None, copy=None):
        self._events.append(f"read {self._number}")
        return np.asarray(0.5, dtype)


@pytest.mark.parametrize(
    ("on_policy", "expected"),
    [
        (False, "ask 0, start 0, ask 1, start 1, read 0, ask 2, start 2, read 1, read 2, save"),
        (True, "ask 0, start 0, read 0, ask 1, start 1, read 1, ask 2, start 2, read 2, save"),
    ],
)
def test_a_step_is_read_when_the_next_is_under_way(job, model, monkeypatch, on_policy, expected):
    """Or before a source that samples is asked, which waits for it anyway. Only batches go to the device: an
    operation of the loop's own would take a number there, and its result would wait for all that is queued."""
    events = []

    class Source(Numbered):
        def next(self, step, params):
            events.append(f"ask {step}")
            return super().next(step, params)

    def step(state, batch, used):
        number = sum(event.startswith("start") for event in events)
        events.append(f"start {number}")
        return state, {"loss": Figure(number, events), "grad_norm": 1.0, "skipped": 0}

    def place(*args):
        with jax.transfer_guard_host_to_device("allow"):
            return to_global(*args)

    state = init_state(model, make_optimizer(TRAINING.optimizer, 3), tiny.params(tiny.QWEN3))
    replaced = {"init_state": lambda *_: state, "to_global": place, "make_step": lambda *_: step}
    for name, other in replaced.items():
        monkeypatch.setattr(loop, name, other)
    monkeypatch.setattr(Checkpoints, "save", lambda *_: events.append("save"))
    source = Source()
    source.on_policy = on_policy
    made = job(source, training={"steps": 3}, initial=dict)
    with jax.transfer_guard_host_to_device("disallow"):
        loop.run(made)
    assert ", ".join(events) == expected
    assert [line["step"] for line in lines(made)] == [0, 1, 2]


def test_a_bad_batch_is_skipped_counted_and_kept(job):
    made = job(Numbered(poison_at=2))
    state = loop.run(made)
    assert (int(state.step), int(state.skipped)) == (STEPS, 1)
    assert [line["skipped"] for line in lines(made)] == [0, 0, 1, 1, 1, 1]
    assert lines(made)[2]["loss"] is None
    (path,) = (made.folder / "bad_batches").iterdir()
    assert path.name == "step_000002.0.npz"
    with np.load(path) as kept:
        expected = batch_of(2)
        np.testing.assert_array_equal(kept["tokens"], expected.tokens)
        np.testing.assert_array_equal(kept["spans.own_lo"], expected.spans.own_lo)
        assert np.isnan(kept["weights"][1, 3])
        assert len(kept.files) == len(jax.tree.leaves(expected))


def test_rows_that_do_not_divide_over_the_mesh(job):
    model = ModelSpec.build(tiny.QWEN3, tiny.VOCAB, tiny.mesh(data=4))
    with pytest.raises(ConfigError, match=r"^config\.sft\.training\.microbatch_size is 2, .*use 4$"):
        loop.run(job(Numbered(), model=model))


def test_a_checkpoint_of_another_model_is_refused(job, whole):
    changed = IDENTITY | {"hidden": 64, "tokenizer_sha256": "def"}
    with pytest.raises(ConfigError) as error:
        loop.run(job(Numbered(), folder="whole", identity=changed))
    message = str(error.value)
    assert "\n" not in message
    assert re.search(r"another model \(hidden 32 → 64; tokenizer_sha256 'abc' → 'def'\)", message)


def test_how_a_model_is_run_is_not_which_one_it_is(tmp_path):
    """A converted model, and a checkpoint from before a setting, may be run in any way."""
    (tmp_path / "tokenizer").write_text("x")
    ways = {
        **{
            "init_from": "a run",
            "param_dtype": "bfloat16",
            "compute_dtype": "bfloat16",
            "remat": "offload-all",
        },
        **{"ffn_tokens": 64, "context": ContextConfig(ulysses=2)},
    }
    assert set(ways) == set(EXECUTION)

    def identity(**changes):
        return model_identity(dataclasses.replace(tiny.QWEN3, **changes), tiny.VOCAB, tmp_path / "tokenizer")

    assert identity(**ways) == identity() != identity(hidden=64)


def test_parameters_from_a_run_or_a_stage_folder(job, whole, model):
    made, state = whole
    for folder in (made.folder, made.folder.parent):
        tiny.assert_equal(host(load_params(str(folder), model, IDENTITY, seed=0)), state.params)
    nowhere = made.folder / "nothing"
    with pytest.raises(ConfigError, match=r"^config\.model\.init_from: no checkpoint under .*nothing; give"):
        load_params(str(nowhere), model, IDENTITY, seed=0)
    assert not nowhere.exists()
    with pytest.raises(ConfigError, match=r"another model \(hidden 32 → 64\)"):
        load_params(str(made.folder), model, IDENTITY | {"hidden": 64}, seed=0)
    checkpoints = made.folder / "checkpoints"
    tiny.assert_equal(host(load_step(checkpoints, STEPS, model, IDENTITY)), state.params)
    with pytest.raises(ConfigError, match=r"another model \(hidden 32 → 64\); use another config\.run_dir"):
        load_step(checkpoints, STEPS, model, IDENTITY | {"hidden": 64})
    (checkpoints / str(STEPS) / "state" / "manifest.ocdbt").write_bytes(b"")
    with pytest.raises(StepLost, match=r"has step 4 instead of 6$"):
        load_step(checkpoints, STEPS, model, IDENTITY)


def test_a_checkpoint_restores_onto_another_mesh(tmp_path):
    """Written from fsdp = 8, read on data = 4 × tensor = 2: the same numbers, laid out anew."""
    optimizer = make_optimizer(TRAINING.optimizer, STEPS)
    written = ModelSpec.build(tiny.QWEN2, tiny.VOCAB, tiny.mesh(fsdp=8))
    params = jax.device_put(tiny.params(tiny.QWEN2), written.shardings)
    with jax.set_mesh(written.mesh):
        state = init_state(written, optimizer, params)
        with Checkpoints(tmp_path / "checkpoints", 2, IDENTITY) as checkpoints:
            checkpoints.save(state, {"position": 9}, CONFIG)
    read = ModelSpec.build(tiny.QWEN2, tiny.VOCAB, tiny.mesh(data=4, tensor=2))
    layout = state_shardings(read, optimizer)
    abstract = jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state, layout
    )
    with Checkpoints(tmp_path / "checkpoints", 2, IDENTITY) as checkpoints:
        restored, position = checkpoints.restore(abstract)
    assert position == {"position": 9}
    tiny.assert_equal(host(restored), host(state))
    same = jax.tree.map(lambda x, sharding: x.sharding.is_equivalent_to(sharding, x.ndim), restored, layout)
    assert all(jax.tree.leaves(same))
    alone = load_params(str(tmp_path), read, IDENTITY, seed=0)
    tiny.assert_equal(host(alone), host(state.params))
    head = alone["head"]
    assert head.sharding.shard_shape(head.shape) == (tiny.VOCAB // 2, 32)
