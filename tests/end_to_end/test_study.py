"""The study of a smoke run, from the command line to the page; what is played already is not played again."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from command import ROOT, SMOKE, finish

from mirothinker_jax.study import main
from mirothinker_jax.trajectory.journal import History

SECTIONS = ("scaling", "matched_compute", "arms", "languages", "recovery", "drift", "memory")
# A world of four held-out pages: there is little to ask, and all of it works as in a larger one.
FEW = {"questions": 4, "budgets": "2,4", "shallow_calls": 2, "samples": 2, "react_calls": 3, "walks": 1}
FEW |= {"depths": "1,2", "long_depths": 2, "fault_steps": 0}


def study(folder):
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    environment |= {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    command = [sys.executable, "-m", "mirothinker_jax.study", "--config", str(SMOKE), "--from", str(folder)]
    command += [f"--config.study.{key}={value}" for key, value in FEW.items()]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return finish(subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipes))


def figures(folder):
    summary = json.loads((folder / "study" / "summary.json").read_text())
    return {key: value for key, value in summary.items() if key != "wall_s"}


@pytest.mark.slow
def test_the_study_of_a_run(smoke, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(smoke.folder, run)
    code, out, err = study(run)
    assert code == 0, err
    assert out.splitlines()[-1] == f"study: {run}/study/study.html"
    summary = figures(run)
    assert {*SECTIONS, "findings", "policy", "seed"} <= summary.keys() and summary["policy"] == "grpo-4"
    assert [line.removeprefix("- ") for line in out.splitlines()[:-1]] == list(summary["findings"].values())

    # Figures are those of the episodes.
    journals = run / "study" / summary["journals"]
    for arm, series in (
        ("shuffled", "shuffled"),
        ("react", "react"),
        ("pages", "pages"),
        ("isolated", "isolated"),
    ):
        episodes = list(History(journals / f"{series}.jsonl").trajectories())
        assert len(episodes) == summary["arms"][arm]["n"] == FEW["questions"]
        assert summary["arms"][arm]["mean"] == sum(bool(t.correct) for t in episodes) / len(episodes)
        assert summary["arms"][arm]["calls"] == sum(t.calls for t in episodes) / len(episodes)
    silent = list(History(journals / "silent.jsonl").trajectories())
    assert {t.metrics["max_calls"] for t in silent} == {2, 4} and len(silent) == 2 * FEW["questions"]
    told = list(History(journals / "announced.jsonl").trajectories())
    assert all(f"at most {t.metrics['max_calls']} calls." in t.question for t in told)

    page = (run / "study" / "study.html").read_text()
    assert "http:" not in page.split("<body")[0] and "<script" not in page and page.count("<svg") >= 9
    for finding in summary["findings"].values():
        assert finding.split("'")[0] in page

    # Once more: nothing is played; and a series that is gone comes out alike.
    before = {path.name: path.stat().st_size for path in journals.iterdir()}
    for path in journals.glob("shuffled.*"):
        path.unlink()
    code, _, err = study(run)
    assert code == 0, err
    assert figures(run) == summary
    after = {path.name: path.stat().st_size for path in journals.iterdir()}
    assert after.keys() == before.keys()
    assert all(after[name] == size for name, size in before.items() if not name.startswith("shuffled"))


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (
            lambda folder: None,
            "config.json cannot be read (No such file or directory); give the folder of a run",
        ),
        (
            lambda folder: (folder / "config.json").write_text("{"),
            "config.json cannot be read (Expecting property name",
        ),
        (lambda folder: (folder / "config.json").write_text('{"sead": 1}'), "config.sead"),
    ],
)
def test_what_is_no_run(make, line, tmp_path, capsys):
    make(tmp_path)
    assert main(["--config", str(SMOKE), "--from", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert (
        out == "" and err.startswith(f"error: --from {tmp_path}: ") and line in err and err.count("\n") == 1
    )
