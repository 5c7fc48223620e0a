"""DPO on a user's file of pairs: no questions, no tools, nothing sampled."""

import dataclasses
import json

import numpy as np
import pytest
import tiny

from mirothinker_jax import evaluate
from mirothinker_jax.agent import __main__ as agent
from mirothinker_jax.config import (
    Config,
    ConfigError,
    DPOConfig,
    EvalConfig,
    ModelConfig,
    TokenizerConfig,
    TrainingConfig,
)
from mirothinker_jax.data.strict_json import DataError
from mirothinker_jax.data.tokenizer import train_tokenizer
from mirothinker_jax.pipeline import preflight, prepare
from mirothinker_jax.pipeline import run as pipeline
from mirothinker_jax.pipeline.inputs import open_inputs, purposes
from mirothinker_jax.rollout.local import layout
from mirothinker_jax.trajectory import journal

pytestmark = pytest.mark.usefixtures("relaxed_promotion")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """(pairs, steps) → the stage's lines of metrics."""
    for module in (prepare, preflight):
        monkeypatch.setattr(module, "make_mesh", lambda _: tiny.mesh())
    for name in ("open_tasks", "build_tools", "WorldServer"):
        monkeypatch.setattr(prepare, name, lambda *_: pytest.fail("nothing is to be asked"))
    train_tokenizer(["1+1? 2 3 4"] * 20, tmp_path / "t.model", TokenizerConfig(vocab_size=300))

    def start(pairs, steps):
        (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
        training = TrainingConfig(
            steps=steps, batch_size=2, microbatch_size=2, sequence_length=64, checkpoint_every=1, log_every=1
        )
        config = Config(
            run_dir=str(tmp_path / "run"),
            stages=("dpo",),
            tokenizer=TokenizerConfig(path=str(tmp_path / "t.model")),
            model=ModelConfig(vocab_size=320, hidden=16, layers=1, heads=1, kv_heads=1, head_dim=8, ffn=16),
            dpo=DPOConfig(
                path=str(tmp_path / "pairs.jsonl"), training=training, sft_coef=0.0, pairs_per_row=1
            ),
            evaluation=EvalConfig(questions=0),
        )
        pipeline.run(config, open_inputs(config))
        return [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]

    return start


def pairs(answer="2"):
    return [{"prompt": "1+1?", "chosen": answer, "rejected": str(wrong)} for wrong in (3, 4)]


@pytest.mark.slow
def test_a_file_of_pairs_is_trained_on_and_only_that_one(run, tmp_path, monkeypatch):
    (first,) = run(pairs(), steps=1)
    np.testing.assert_allclose(first["loss"], np.log(2), rtol=1e-5)  # the policy is the reference
    assert not (tmp_path / "run" / "dpo" / "samples.jsonl").exists()
    with pytest.raises(
        ConfigError, match=r"preference pairs have changed .* put .*/pairs\.jsonl back as it was"
    ):
        run(pairs("4 2"), steps=2)
    lines = run(pairs(), steps=2)
    assert [line["step"] for line in lines] == [0, 1] and lines[1]["loss"] < lines[0]["loss"]
    _evaluate(tmp_path, monkeypatch)


def _evaluate(folder, monkeypatch):
    """The run as a policy, which brings its settings. It knows nothing, but what it says is judged and counted."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(layout, "local_mesh", lambda *_: tiny.mesh())
    question = {"id": "sum", "question": "1+1?", "answer": "2"}
    (folder / "q.jsonl").write_text(json.dumps(question) + "\n")
    asked = ["--policy", "run", "--tasks", "q.jsonl", "--out", "out", "--runs", "3", "--concurrency", "2"]
    asked += [
        "--config.agent.max_calls=0",
        "--config.agent.turn_tokens=8",
        "--config.rollout.prefill_tokens=512",
    ]
    assert evaluate.main(asked) == 0
    summary = json.loads((folder / "out" / "summary.json").read_text())
    assert (summary["accuracy"]["n"], summary["accuracy"]["mean"], summary["unit"]) == (3, 0.0, "tokens")
    assert 1 <= summary["sampled"] <= 8 and summary["calls"] == 0
    episodes = journal.read(folder / "out" / "episodes.jsonl")
    assert len({e.segments[-1].tokens for e in episodes}) == 3  # each with a seed of its own
    manifest = json.loads((folder / "out" / "manifest.json").read_text())
    assert manifest["policy"]["checkpoint"] == "dpo/2" and manifest["settings"]["model.hidden"] == 16
    # It can be asked, too.
    said = ["1+1?", *asked[:2], *asked[-3:], "--config.rollout.slots=2", "--out", "asked"]
    assert agent.main(said) == agent.NO_ANSWER
    (episode,) = journal.read(next((folder / "asked").glob("*.jsonl")))
    assert episode.metadata["policy"] == "run, dpo/2" and episode.metadata["usage"]["completion_tokens"] > 0
    with pytest.raises(SystemExit, match="2"):  # of another size than the checkpoint
        evaluate.main([*asked, "--config.model.hidden=x"])
    assert evaluate.main([*asked, "--config.model.hidden=8"]) == 2


def test_a_pair_that_cannot_be_rendered_costs_nothing(run, tmp_path):
    calls = [{"role": "assistant", "tool_calls": [{"function": {"name": "find", "arguments": {}}}]}]
    with pytest.raises(DataError, match=r"pairs\.jsonl:2: chosen: .* no server is known"):
        run([*pairs()[:1], {**pairs()[1], "chosen": calls}], steps=1)
    assert not (tmp_path / "run").exists()


def test_questions_are_drawn_for_sampled_pairs_alone():
    config = Config(
        stages=("dpo",), tokenizer=TokenizerConfig(path="t.model"), evaluation=EvalConfig(questions=0),
        dpo=DPOConfig(training=TrainingConfig(sequence_length=4096)),
    )  # fmt: skip
    assert purposes(config) == ["dpo"]
    own = dataclasses.replace(config.dpo, path="p.jsonl", training=TrainingConfig(sequence_length=64))
    assert purposes(dataclasses.replace(config, dpo=own)) == []
