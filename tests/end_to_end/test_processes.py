"""Several processes are one program: the same losses, and checkpoints that any number of them can read."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mirothinker_jax import checked_lines
from mirothinker_jax.trajectory import journal

ROOT = Path(__file__).resolve().parents[2]

CONFIG = """
from mirothinker_jax.config import default

def get_config():
    c = default()
    c.stages = ("sft",)
    c.data.path = {data!r}
    c.data.shards = 2
    c.tokenizer.vocab_size = 320
    c.model.hidden, c.model.ffn, c.model.layers = 32, 64, 1
    c.model.heads, c.model.kv_heads, c.model.head_dim = 2, 2, 8
    t = c.sft.training
    t.steps, t.epochs = 0, 2.1  # six steps, of conversations of which each process measures half
    t.batch_size, t.microbatch_size, t.sequence_length = 16, 8, 64
    c.data.validation_fraction, c.sft.validate_every = 0.1, 2
    t.checkpoint_every, t.keep_checkpoints, t.log_every = 2, 3, 1
    c.evaluation.questions = 0
    return c
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a config and the data that it trains on."""
    folder = tmp_path_factory.mktemp("processes")
    rng = random.Random(0)
    with (folder / "sums.jsonl").open("w") as file:
        for _ in range(100):
            a, b = rng.randint(0, 99), rng.randint(0, 99)
            answer = f"it is {a + b}" + "!" * rng.randint(0, 20)
            messages = [{"role": "user", "content": f"{a}+{b}?"}, {"role": "assistant", "content": answer}]
            file.write(json.dumps({"messages": messages}) + "\n")
    (folder / "tiny.py").write_text(CONFIG.format(data=str(folder / "sums.jsonl")))
    return folder


def launch(folder, run, processes, devices, *settings, config="tiny.py"):
    """Starts a run of `processes` with `devices` fake ones each; `config` is a path from `folder`."""
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    environment |= {"PYTHON": sys.executable, "LOCAL_DEVICES": str(devices)}
    environment |= {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # as in conftest.py
    command = [ROOT / "launch" / "local.sh", str(processes), folder / config]
    return subprocess.Popen(
        [*command, f"--config.run_dir={folder / run}", *settings],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def losses(folder, run, stage="sft", figure="loss"):
    """Loss by step, each of which must be logged once; or another figure, of the steps that have it."""
    lines = [json.loads(line) for line in (folder / run / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if line["stage"] == stage]
    assert [line["step"] for line in lines] == list(range(len(lines)))
    return [line[figure] for line in lines if figure in line]


@pytest.fixture(scope="module")
def alone(folder):
    """Losses of one process with 8 devices."""
    finish(launch(folder, "alone", 1, 8))
    found = losses(folder, "alone")
    assert len(found) == 6 and found[-1] < found[0] - 0.1  # it learns: equal losses below mean something
    return found


@pytest.mark.parametrize(
    "mesh",
    [
        pytest.param(
            ("data=2", "fsdp=2", "context=2"), id="rows over both processes", marks=pytest.mark.slow
        ),
        pytest.param(
            ("data=1", "fsdp=1", "context=4", "tensor=2"),
            id="one row over both processes",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_two_processes_lose_what_one_does(folder, alone, mesh):
    run = "-".join(mesh)
    output = finish(launch(folder, run, 2, 4, *(f"--config.mesh.{axis}" for axis in mesh)))
    assert "\n[1] " in output  # the second one's lines say so
    assert losses(folder, run) == pytest.approx(alone, rel=1e-5)
    heldout = [losses(folder, name, figure="validation_loss") for name in (run, "alone")]
    assert len(heldout[1]) == 3 and heldout[0] == pytest.approx(heldout[1], rel=1e-5)


@pytest.mark.slow
def test_one_process_goes_on_from_the_checkpoint_of_two(folder, alone):
    finish(launch(folder, "handed-over", 2, 4))
    for step in ("4", "6"):  # as if both had been killed after step 2
        shutil.rmtree(folder / "handed-over" / "sft" / "checkpoints" / step)
    finish(launch(folder, "handed-over", 1, 8))
    assert losses(folder, "handed-over") == pytest.approx(alone, rel=1e-5)


@pytest.mark.slow
def test_rollouts_of_two_processes_are_repeated_from_the_record_and_completed(folder):
    # What is sampled again is compared bit by bit, and what runs beside it comes by time: hence deterministic.
    settings = (
        "stages=sft,grpo",
        "evaluation.questions=2",
        "evaluation.budgets=1",
        "rollout.deterministic=True",
    )
    command = [f"--config.{setting}" for setting in settings]
    smoke = ROOT / "configs" / "toy" / "smoke.py"
    finish(launch(folder, "rollouts", 2, 1, *command, config=smoke))
    first = losses(folder, "rollouts", "grpo")
    assert len(first) == 4 and any(first)  # some group had unequal rewards

    # As if killed in step 3, when one process had recorded its rollouts and the other had not; and a bit that the
    # second process wrote into the last checkpoint has flipped since.
    stage = folder / "rollouts" / "grpo"
    flipped = max((stage / "checkpoints" / "4").glob("state/*process_1/d/*"), key=lambda p: p.stat().st_size)
    content = bytearray(flipped.read_bytes())
    content[len(content) // 2] ^= 4
    flipped.write_bytes(content)
    for part in stage.glob("eval_trajectories.*"):
        part.unlink()
    lost = stage / "rollouts" / "step_000003.1-of-2.jsonl"
    before = {t.id: t for t in journal.read(lost)}
    lost.unlink()
    output = finish(launch(folder, "rollouts", 2, 1, *command, config=smoke))
    (line,) = [line for line in output.splitlines() if "damaged" in line]
    assert line.endswith("is not what was written; set aside as damaged-4, using step 2")
    assert sorted(p.name for p in (stage / "checkpoints").iterdir()) == ["2", "4", "damaged-4"]
    assert losses(folder, "rollouts", "grpo") == first
    assert {t.id: t for t in journal.read(lost)} == before
    assert len(journal.read(stage / "eval_trajectories.jsonl")) == 2


@pytest.mark.slow
def test_processes_that_sample_ahead_train_every_episode_once(folder, monkeypatch):
    """Two processes that share each row, so each trains on what both have sampled. One is killed in the middle."""
    (folder / "coin.py").write_text(
        "def grade(task, attempt):\n    return sum(attempt.segments[-1].tokens) % 2 == 0\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{folder}")
    settings = (
        "stages=sft,grpo",
        "sft.training.steps=2",
        "tasks.grader=coin:grade",
        "evaluation.questions=0",
    )
    settings += ("grpo.staleness=1", "grpo.window=3", "grpo.loss=clip", "grpo.training.steps=6")
    settings += ("mesh.fsdp=1", "mesh.context=2")
    command = [f"--config.{setting}" for setting in settings]
    smoke, rollouts = ROOT / "configs" / "toy" / "smoke.py", folder / "ahead" / "grpo" / "rollouts"
    run, log = launch(folder, "ahead", 2, 1, *command, config=smoke), rollouts / "groups.1-of-2.jsonl"
    deadline = time.monotonic() + 400
    while not log.exists() or log.read_bytes().count(b'"consumed"') < 3:
        assert run.poll() is None and time.monotonic() < deadline, run.communicate(timeout=60)
        time.sleep(0.002)
    (second,) = [pid for pid in trainers(folder / "ahead") if b"PROCESS_ID=1\0" in environment(pid)]
    os.kill(int(second), signal.SIGKILL)
    run.communicate(timeout=60)
    assert run.returncode == 128 + signal.SIGKILL and trainers(folder / "ahead") == []

    before = log.read_bytes()
    finish(launch(folder, "ahead", 2, 1, *command, config=smoke))
    assert log.read_bytes().startswith(before[: before.rindex(b"\n")])
    steps = [[] for _ in range(6)]  # episodes that each has trained, of both
    for index in range(2):
        members = {}
        for _, _, text in checked_lines.read_lines(rollouts / f"groups.{index}-of-2.jsonl"):
            event = json.loads(text)
            if event["event"] == "admitted":
                place = event["place"]
                members[event["group"]] = [f"grpo-{place // 4}-{place}-{m}" for m in event["members"]]
            elif event["event"] == "consumed":
                steps[event["step"]] += [id for number in event["groups"] for id in members[number]]
    assert [len(step) for step in steps] == [16] * 6
    trained = sorted(id for step in steps for id in step)
    assert trained == sorted(f"grpo-{p // 4}-{p}-{m}" for p in range(24) for m in range(4))
    found = {t.id: t for n in range(6) for t in journal.read(rollouts / f"step_{n:06d}.jsonl")}
    tokens = [sum(found[id].tokens for id in step) / len(step) for step in steps]
    assert losses(folder, "ahead", "grpo", "episode_tokens") == pytest.approx(tokens)
    assert all(losses(folder, "ahead", "grpo", "grad_norm")) and found.keys() == set(trained)
    assert {0, 1} <= set(losses(folder, "ahead", "grpo", "staleness/max")) <= {0, 1, 2}


@pytest.mark.slow
def test_a_failure_of_one_ends_all(folder):
    lines = (folder / "sums.jsonl").read_text().splitlines()[:40]
    record = json.loads(lines[31])  # of shard 1, which the second process reads
    record["messages"][0]["content"] = "".join(random.Random(0).choices("0123456789+", k=500))
    (folder / "long.jsonl").write_text("\n".join([*lines[:31], json.dumps(record), *lines[32:]]))
    begun = time.monotonic()
    wrong = launch(folder, "wrong", 2, 1, f"--config.data.path={folder / 'long.jsonl'}")
    output, _ = wrong.communicate(timeout=300)
    assert time.monotonic() - begun < 200, "ended by a time limit of jax, not by the launcher"
    assert wrong.returncode == 2
    assert f"[1] error: {folder / 'long.jsonl'}:32: messages: " in output


@pytest.mark.slow
def test_an_outage_of_one_ends_all(folder, monkeypatch):
    """The judge of the second process is away. The first one, which waits for its episodes, does not wait for ever."""
    (folder / "away.py").write_text(
        "import os\n\ndef grade(task, attempt):\n    return None if os.environ['PROCESS_ID'] == '1' else False\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{folder}")
    settings = ("stages=sft,grpo", "sft.training.steps=2", "tasks.grader=away:grade")
    given = [f"--config.{setting}" for setting in (*settings, "evaluation.questions=0")]
    run = launch(folder, "outage", 2, 1, *given, config=ROOT / "configs" / "toy" / "smoke.py")
    output, _ = run.communicate(timeout=400)
    assert run.returncode == 75, output
    (line,) = [line for line in output.splitlines() if line.startswith("[1] error: ")]
    assert "1 of 8 episodes could not be judged, more than tasks.broken_share=0.1 allows (not judged)" in line
    assert "Traceback" not in output
    assert trainers(folder / "outage") == []
    rollouts = folder / "outage" / "grpo" / "rollouts"
    assert len(journal.read(rollouts / "step_000000.0-of-2.jsonl")) == 8, "what the first one did is kept"


def test_a_signal_ends_every_process(folder):
    run = launch(folder, "stopped", 2, 1)
    deadline = time.monotonic() + 300
    while not (folder / "stopped" / "config.json").exists():
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    assert len(trainers(folder / "stopped")) == 2
    run.send_signal(signal.SIGTERM)
    run.communicate(timeout=60)
    assert run.returncode == 143
    assert trainers(folder / "stopped") == []


def environment(pid):
    return b"\0" + Path(f"/proc/{pid}/environ").read_bytes()


def trainers(run):
    """Ids of the processes that train in this folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it ended while we looked
            words = path.read_bytes().split(b"\0")
            if b"mirothinker_jax.train" in words and f"--config.run_dir={run}".encode() in words:
                found.append(path.parent.name)
    return found
