"""summary.json: the keys that programs rely on, and that it is never half there."""

import json
from pathlib import Path

import pytest

from mirothinker_jax.evals.statistics import wilson
from mirothinker_jax.evals.summary import read_summary, write_summary


def write(folder, **more):
    scaling = {"sft": {0: wilson(1, 10), 32: wilson(9, 10)}}
    figures = {
        "accuracy": {"sft": wilson(9, 10)},
        "scaling": scaling,
        "wall_s": 12.5,
        "peak_rss_gib": 1.5,
        "seed": 3,
    }
    return write_summary(folder, **(figures | more))


def test_keys_that_programs_read(tmp_path):
    returned = write(tmp_path, by_hops={"sft": {2: wilson(5, 10)}}, device="cpu")
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary == returned == read_summary(tmp_path)
    assert summary["accuracy"]["sft"].keys() == {"mean", "low", "high", "n"}
    assert (summary["accuracy"]["sft"]["mean"], summary["accuracy"]["sft"]["n"]) == (0.9, 10)
    assert summary["scaling"] == {"sft": {"0": 0.1, "32": 0.9}}
    assert summary["scaling_intervals"]["sft"]["32"] == summary["accuracy"]["sft"]
    assert summary["by_hops"]["sft"]["2"]["mean"] == 0.5
    assert (summary["wall_s"], summary["peak_rss_gib"], summary["seed"]) == (12.5, 1.5, 3)
    assert summary["device"] == "cpu"


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"wall_s": float("nan")}, "cannot hold these figures"),
        ({"phases": {"sft": object()}}, "cannot hold these figures"),
        ({"scaling_intervals": {}}, "its own scaling_intervals"),
    ],
)
def test_a_refused_summary_leaves_the_old_one(tmp_path, more, expected):
    old = write(tmp_path)
    with pytest.raises(ValueError, match=expected):
        write(tmp_path, **more)
    assert read_summary(tmp_path) == old
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


def test_no_summary_yet_and_a_damaged_one(tmp_path):
    assert read_summary(tmp_path) == {}
    (tmp_path / "summary.json").write_text('{"accuracy": ')
    with pytest.raises(ValueError, match=r"summary\.json: not JSON"):
        read_summary(tmp_path)


def test_a_crash_while_writing_leaves_the_old_one(tmp_path, monkeypatch):
    old = write(tmp_path)

    def crash(*_):
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", crash)
    with pytest.raises(OSError, match="disk full"):
        write(tmp_path, seed=4)
    assert read_summary(tmp_path) == old
