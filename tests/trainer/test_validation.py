"""The held-out loss: of all rows, on any layout, in between steps."""

import json

import jax
import numpy as np
import pytest
import tiny
from numbered import LENGTH, ROWS, Numbered, batch_of

from mirothinker_jax.models.spec import ModelSpec
from mirothinker_jax.objectives.sft import sft
from mirothinker_jax.trainer import loop
from mirothinker_jax.trainer.step import make_logprobs
from mirothinker_jax.trainer.validation import Validation, make_heldout_loss
from mirothinker_jax.types import Batch

pytestmark = pytest.mark.usefixtures("relaxed_promotion")  # optax mixes dtypes


@pytest.fixture(scope="module")
def expected(model):
    with jax.set_mesh(model.mesh):
        logprobs = np.asarray(make_logprobs(model)(tiny.params(tiny.QWEN3), batch_of(0)))
    weights = batch_of(0).weights
    return float(-(logprobs * weights).sum() / weights.sum())


@pytest.mark.parametrize(("layout", "microbatch_size"), [({}, 2), ({"data": 4, "context": 2}, 8)], ids=str)
def test_the_mean_over_all_trained_tokens(expected, layout, microbatch_size):
    """Of four rows in two micro-batches, and of four that do not fill one."""
    model = ModelSpec.build(tiny.QWEN3, tiny.VOCAB, tiny.mesh(**layout))
    asked = []
    rows = lambda: asked.append(1) or batch_of(0)  # noqa: E731
    loss = make_heldout_loss(model, sft, rows, microbatch_size)
    assert not asked, "rows are made when they are needed"
    params = jax.device_put(tiny.params(tiny.QWEN3), model.shardings)
    with jax.set_mesh(model.mesh):
        assert [float(loss(params)) for _ in range(2)] == pytest.approx([expected] * 2, rel=1e-5)
    assert len(asked) == 1


def test_without_a_trained_token_it_is_zero(model):
    loss = make_heldout_loss(model, sft, lambda: Batch.empty(ROWS, LENGTH), 2)
    with jax.set_mesh(model.mesh):
        assert float(loss(tiny.params(tiny.QWEN3))) == 0


def test_it_is_logged_every_so_many_steps_and_after_the_last(job, model, expected):
    """Also of steps that are not logged otherwise; and it is of the parameters after the step."""
    validation = Validation(4, make_heldout_loss(model, sft, lambda: batch_of(0), 2))
    for name, given in (("with", validation), ("without", None)):
        loop.run(job(Numbered(), folder=name, training={"log_every": 5}, validation=given))
    read = lambda name: [json.loads(x) for x in (made / name / "metrics.jsonl").read_text().splitlines()]  # noqa: E731
    made = job(Numbered(), folder="with").folder.parents[1]
    lines, plain = read("with"), read("without")
    assert [line["step"] for line in lines] == [0, 3, 5] and [line["step"] for line in plain] == [0, 5]
    assert [line["step"] for line in lines if "validation_loss" in line] == [3, 5]
    assert lines[-1]["validation_loss"] < lines[1]["validation_loss"] < expected
    assert lines[-1]["loss"] == plain[-1]["loss"], "to look at held-out rows must not change training"
