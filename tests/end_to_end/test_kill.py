"""SIGKILL at many moments, and the same command again: the run ends where an undisturbed one ends, bit by bit."""

import dataclasses
import random
import shutil
import signal
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tiny
from command import SMOKE, finish, left_overs, start
from journals import assert_done_once

from mirothinker_jax.trajectory import journal

pytestmark = pytest.mark.slow

STAGES = {"sft": 160, "dpo": 4, "grpo": 4}


def parameters(folder, stage):
    path = (folder / stage / "checkpoints" / str(STAGES[stage]) / "state").resolve()
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        tree = checkpointer.metadata(path).item_metadata.tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        return checkpointer.restore(path, ocp.args.PyTreeRestore(restore_args=as_numpy))["params"]


def appears(*parts):
    """A moment: something of this name is in the run folder."""
    return lambda folder: any(folder.glob("/".join(parts)))


# In the order in which they come.
MOMENTS = {
    "expert episodes": appears("config.json"),
    "tokenizer": appears("data/expert.jsonl"),
    "training, before a checkpoint": appears("tensorboard/sft/events*"),
    "while a checkpoint is written": appears("sft/checkpoints/*orbax-checkpoint-tmp*"),
    "after a checkpoint": appears("sft/checkpoints/80"),
    "evaluation": appears("sft/checkpoints/160"),
    "pairs sampled": appears("dpo/samples.jsonl*"),
    "dpo": appears("dpo/checkpoints/2*"),
    "grpo": appears("grpo/checkpoints/2*"),
    "report": appears("grpo/eval_trajectories.jsonl*"),
}


def run_until(moment, folder):
    """Starts the run and kills it when the moment is there; False where it ended before."""
    process = start(SMOKE, f"--config.run_dir={folder}")
    deadline = time.monotonic() + 300
    while not moment(folder):
        if process.poll() is not None:
            code, _, err = finish(process)
            assert code == 0, err
            return False
        assert time.monotonic() < deadline, finish(process, timeout=1)
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    code, _, err = finish(process)
    assert code == -signal.SIGKILL, err
    return True


def same_episodes(path, other):
    """The same tokens, answers and rewards in both records. Log-probs to 1e-4: which episodes share a dispatch is
    up to timing, and with its shape the last bits of what it computes."""
    ours, theirs = (sorted(journal.read(p), key=lambda t: t.id) for p in (path, other))
    assert len(ours) == len(theirs) > 0
    for a, b in zip(ours, theirs, strict=True):
        for new, old in zip(a.segments, b.segments, strict=True):
            np.testing.assert_allclose(new.logprobs, old.logprobs, atol=1e-4)
        assert without_logprobs(a) == without_logprobs(b)


def without_logprobs(trajectory):
    segments = tuple(dataclasses.replace(s, logprobs=(0.0,) * len(s.logprobs)) for s in trajectory.segments)
    return dataclasses.replace(trajectory, segments=segments)


def test_killed_at_many_moments(smoke, tmp_path):
    folder = tmp_path / "run"
    # Rollouts are recorded before they are trained on; those of the undisturbed run are on record from the start.
    shutil.copytree(smoke.folder / "grpo" / "rollouts", folder / "grpo" / "rollouts")
    killed = [name for name, moment in MOMENTS.items() if run_until(moment, folder)]
    assert len(killed) >= 8, killed
    code, out, err = finish(start(SMOKE, f"--config.run_dir={folder}"))
    assert code == 0, err
    assert out.splitlines()[:-1] == smoke.out.splitlines()[:-1]
    for stage in STAGES:
        tiny.assert_equal(parameters(folder, stage), parameters(smoke.folder, stage))
    for name in ("data/expert.jsonl", "data/tokenizer.model"):
        assert (folder / name).read_bytes() == (smoke.folder / name).read_bytes(), name
    same_episodes(folder / "dpo" / "samples.jsonl", smoke.folder / "dpo" / "samples.jsonl")
    for stage in STAGES:
        episodes = f"{stage}/eval_trajectories.jsonl"
        same_episodes(folder / episodes, smoke.folder / episodes)
        ours = [(r["step"], r["loss"], r["grad_norm"]) for r in smoke._replace(folder=folder).lines(stage)]
        assert ours == [(r["step"], r["loss"], r["grad_norm"]) for r in smoke.lines(stage)]
    assert [p for p in left_overs(folder) if "checkpoint" in str(p)] == []


def test_killed_at_twenty_moments_of_sampling(smoke, tmp_path):
    """Of the episodes that DPO's pairs are made of: each is there once, with the tokens of an undisturbed run; what was
    finished was not sampled again; and the embedded web and the sandboxes of a killed run are gone."""
    folder, samples = tmp_path / "run", Path("dpo") / "samples.jsonl"
    shutil.copytree(smoke.folder, folder)
    for stage in ("dpo", "grpo"):
        shutil.rmtree(folder / stage)

    def turns(path):
        return path.read_bytes().count(b'"event": "turn"') if path.exists() else 0

    whole, kills = turns(smoke.folder / samples), 0
    for moment in sorted(random.Random(5).sample(range(1, whole - 1), 20)):
        moment = max(moment, turns(folder / samples) + 1)  # the turns of one dispatch are written together
        if moment >= whole:
            break
        process = start(SMOKE, f"--config.run_dir={folder}")
        deadline = time.monotonic() + 300
        while turns(folder / samples) < moment:
            assert process.poll() is None and time.monotonic() < deadline, finish(process, timeout=1)
            time.sleep(0.002)
        others = descendants(process.pid)
        process.send_signal(signal.SIGKILL)
        finish(process)
        assert others, "the embedded web"
        while others := [pid for pid in others if Path(f"/proc/{pid}").exists()]:
            assert time.monotonic() < deadline, others
            time.sleep(0.01)
        kills += 1
    assert run_until(appears("dpo/checkpoints/2*"), folder)
    assert kills >= 12, kills
    same_episodes(folder / samples, smoke.folder / samples)
    assert_done_once(folder / samples)


def descendants(pid):
    """Ids of the processes that it started, and of those that they did."""
    children = [
        int(child)
        for path in Path(f"/proc/{pid}/task").glob("*/children")
        for child in path.read_text().split()
    ]
    return children + [other for child in children for other in descendants(child)]


def test_rollouts_that_were_lost_are_sampled_again(smoke, tmp_path):
    """Killed in the last step, before its rollouts were on record: the same tokens come from the checkpoint before.

    The parameters are the same to the last bits of the sampler's log-probs only.
    """
    folder = tmp_path / "run"
    shutil.copytree(smoke.folder, folder)
    last = sorted((folder / "grpo" / "rollouts").glob("*.jsonl"))[-1]
    kept = tmp_path / "lost.jsonl"
    for suffix in (".jsonl", ".columns"):
        shutil.move(last.with_suffix(suffix), kept.with_suffix(suffix))
    shutil.rmtree(folder / "grpo" / "checkpoints" / str(STAGES["grpo"]))
    (folder / "grpo" / "eval_trajectories.jsonl").unlink()
    code, _, err = finish(start(SMOKE, f"--config.run_dir={folder}"))
    assert code == 0, err
    same_episodes(last, kept)
    before, after = (parameters(f, "grpo") for f in (smoke.folder, folder))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), before, after)
