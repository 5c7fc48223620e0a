"""What a run keeps across restarts besides checkpoints: seconds by phase, and a reference's log-probs."""

import dataclasses
import json

import pytest
import tiny

from mirothinker_jax.data.packing import pack_rows
from mirothinker_jax.pipeline.phases import Phases
from mirothinker_jax.pipeline.records import read_or_fill


def test_seconds_add_up_over_restarts(tmp_path, monkeypatch):
    clock = iter([9.0, 10.0, 12.5, 99.0, 100.0, 101.0, 101.5, 7.0, 7.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    path = tmp_path / "phases.json"
    first = Phases(path, enabled=True)
    with first("sft"):
        pass
    second = Phases(path, enabled=True)
    with second("sft"):
        pass
    assert second.seconds == json.loads(path.read_text()) == {"sft": 3.5}
    assert second.wall_s() == 2.5 + 2.5  # the first start's phase, and all of the second start
    with pytest.raises(RuntimeError), second("dpo"):
        raise RuntimeError("killed")
    monkeypatch.undo()
    assert Phases(path, enabled=True).seconds == {"sft": 3.5}


def test_only_the_first_process_writes(tmp_path):
    phases = Phases(tmp_path / "phases.json", enabled=False)
    with phases("sft"):
        pass
    assert "sft" in phases.seconds and list(tmp_path.iterdir()) == []


def test_log_probs_of_a_reference_are_computed_once_for_the_same_rows(tmp_path):
    path, asked = tmp_path / "dpo" / "reference.npz", []
    batch, other = (pack_rows(tiny.samples(seed, (9, 7)), 12, 2) for seed in (0, 1))

    def fill(batch):
        asked.append(batch)
        return dataclasses.replace(batch, ref_logprobs=-batch.weights * len(asked))

    first = read_or_fill(path, batch, fill)
    assert len(asked) == 1 and first.ref_logprobs.any()
    tiny.assert_equal(read_or_fill(path, batch, fill), first)
    assert len(asked) == 1 and [p.name for p in path.parent.iterdir()] == ["reference.npz"]
    read_or_fill(path, other, fill)
    assert len(asked) == 2, "log-probs of other rows were taken"
    for damage in (path.read_bytes()[:40], b"", path.read_bytes()[:-9] + b"x" * 9):
        path.write_bytes(damage)
        asked.clear()
        tiny.assert_equal(read_or_fill(path, batch, fill), first)
        assert len(asked) == 1
