"""The whole recipe, small: SFT → DPO → GRPO with real tool calls, from the command line to the report."""

import itertools
import json
import math
import shutil

import pytest
from command import SMOKE, finish, left_overs, start

from mirothinker_jax import convert
from mirothinker_jax.data.tokenizer import Tokenizer
from mirothinker_jax.trajectory import journal
from mirothinker_jax.trajectory.types import Source

STAGES = ("sft", "dpo", "grpo")
BUDGETS = ("0", "2", "4")
QUESTIONS = 8


@pytest.fixture(scope="module")
def summary(smoke):
    return json.loads((smoke.folder / "summary.json").read_text())


def test_the_summary(summary):
    assert {"accuracy", "scaling", "wall_s", "peak_rss_gib", "seed"} <= summary.keys()
    assert list(summary["accuracy"]) == list(summary["scaling"]) == list(STAGES)
    for stage in STAGES:
        accuracy = summary["accuracy"][stage]
        assert accuracy.keys() == {"mean", "low", "high", "n"} and accuracy["n"] == QUESTIONS
        assert 0 <= accuracy["low"] <= accuracy["mean"] <= accuracy["high"] <= 1
        assert tuple(summary["scaling"][stage]) == BUDGETS
        assert summary["scaling"][stage]["4"] == accuracy["mean"]
    assert summary["seed"] == 0 and summary["wall_s"] > 0
    assert 0.2 < summary["peak_rss_gib"] < 4


def test_what_is_said_at_the_end(smoke, summary):
    lines = smoke.out.splitlines()
    assert lines[-1] == f"report: {smoke.folder}/report.html"
    for stage, line in zip(STAGES, lines, strict=False):
        assert line.startswith(f"{stage}: held-out accuracy {summary['accuracy'][stage]['mean']:.3f} [")


def test_the_report(smoke):
    text = (smoke.folder / "report.html").read_text()
    assert text.lstrip().lower().startswith("<!doctype html") and text.count("<svg") >= 3
    assert "http://" not in text.split("<body")[0], "the report must need no network"


def test_metrics_of_every_step(smoke):
    every = {"sft": 10, "dpo": 1, "grpo": 1}
    last = {"sft": 159, "dpo": 3, "grpo": 3}
    for stage in STAGES:
        steps = [r["step"] for r in smoke.lines(stage)]
        assert steps == sorted({*range(0, last[stage] + 1, every[stage]), last[stage]})
        lines = smoke.lines(stage)
        assert all(math.isfinite(r["loss"]) for r in lines)
        # Nothing is skipped but the GRPO steps in which every group earned equal rewards; each step has its line.
        idle = list(itertools.accumulate(r["grad_norm"] == 0 for r in lines))
        assert [r["skipped"] for r in lines] == idle and (stage == "grpo" or idle[-1] == 0)
        assert list((smoke.folder / "tensorboard" / stage).glob("events.out.tfevents.*"))


def test_the_policy_learns(smoke):
    losses = [r["loss"] for r in smoke.lines("sft")]
    assert losses[-1] < 0.1 * losses[0]
    dpo = smoke.lines("dpo")
    assert dpo[0]["margin"] == pytest.approx(0, abs=1e-5), "the reference is not the policy at the start"
    assert dpo[-1]["loss"] < dpo[0]["loss"] and dpo[-1]["margin"] > 0


def test_the_sampler_and_the_trainer_agree(smoke):
    """On the log-probs of the same tokens, at every step, with the parameters of that step."""
    steps = [r for r in smoke.lines("grpo") if r["denominator"]]
    assert steps, "no group had unequal rewards"
    assert all(r["logprob_gap"] < 1e-4 for r in steps)


def test_episodes_are_on_record(smoke):
    for stage in STAGES:
        episodes = journal.read(smoke.folder / stage / "eval_trajectories.jsonl")
        assert len(episodes) == QUESTIONS * len(BUDGETS)
        assert {int(t.metrics["max_calls"]) for t in episodes} == {0, 2, 4}
        assert all(t.calls + t.malformed_calls <= t.metrics["max_calls"] for t in episodes)
    rollouts = sorted((smoke.folder / "grpo" / "rollouts").glob("*.jsonl"))
    assert [p.name for p in rollouts] == [f"step_{i:06d}.jsonl" for i in range(4)]
    groups = [journal.read(p) for p in rollouts]
    assert [len(g) for g in groups] == [16] * 4
    assert [{t.policy_version for t in g} for g in groups] == [{i} for i in range(4)]
    samples = journal.read(smoke.folder / "dpo" / "samples.jsonl")
    assert len(samples) == 48 and 0 < sum(t.correct for t in samples) < 48
    observed = [s.text for t in samples for s in t.segments if s.source is Source.OBSERVATION]
    assert any("http://airports.test/" in text for text in observed), "no search reached the embedded web"


def test_nothing_is_left_half_written(smoke):
    assert left_overs(smoke.folder) == []
    for stage, steps in (("sft", {120, 160}), ("dpo", {2, 4}), ("grpo", {2, 4})):
        checkpoints = smoke.folder / stage / "checkpoints"
        assert {int(p.name) for p in checkpoints.iterdir() if p.is_dir()} == steps


def stable(summary):
    return {k: v for k, v in summary.items() if k not in ("wall_s", "phases", "peak_rss_gib")}


@pytest.fixture
def run_again(smoke, tmp_path):
    """A copy of the run, that another worker's tests do not see: its folder, and what starts it again."""
    folder = tmp_path / "run"
    shutil.copytree(smoke.folder, folder)
    return folder, lambda *settings: finish(start(SMOKE, f"--config.run_dir={folder}", *settings))


def test_the_same_command_again_does_nothing(smoke, summary, run_again):
    folder, command = run_again
    kept = {p: p.read_bytes() for p in folder.rglob("*.jsonl")}
    checkpoints = sorted(folder.glob("*/checkpoints/*/state/_METADATA"))
    times = [p.stat().st_mtime_ns for p in checkpoints]
    assert len(times) == 6
    code, out, err = command()
    assert code == 0, err
    assert out.splitlines()[:-1] == smoke.out.splitlines()[:-1]
    assert {p: p.read_bytes() for p in folder.rglob("*.jsonl")} == kept
    assert [p.stat().st_mtime_ns for p in checkpoints] == times
    again = json.loads((folder / "summary.json").read_text())
    assert stable(again) == stable(summary)
    assert again["wall_s"] < summary["wall_s"] + 10


def test_other_settings_in_the_same_folder_are_refused(run_again):
    folder, command = run_again
    before = (folder / "config.json").read_bytes()
    code, out, err = command("--config.sft.training.optimizer.learning_rate=0.5")
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("error: ") and "sft.training.optimizer.learning_rate: 0.01 → 0.5" in line
    assert "config.run_dir" in line
    assert (folder / "config.json").read_bytes() == before


def test_an_export_without_a_tokenizer_that_transformers_reads_ends_turns_as_well(smoke, tmp_path):
    assert convert.main(["--to", "hf", "--path", str(smoke.folder), "--out", str(tmp_path / "out")]) == 0
    end = Tokenizer(smoke.folder / "data" / "tokenizer.model").im_end_id
    written = {path.name: json.loads(path.read_text()) for path in (tmp_path / "out").glob("*.json")}
    assert written.keys() == {"config.json", "generation_config.json"}
    assert {values["eos_token_id"] for values in written.values()} == {end}
