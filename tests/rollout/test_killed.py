"""SIGKILL while episodes are written down: nothing that was finished is lost or done twice."""

import collections
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import collecting

from mirothinker_jax.trajectory import journal

ROOT = Path(__file__).resolve().parents[2]


def assert_done_once(path):
    """No finished turn was sampled again, no call that had an answer made again, no episode ended twice."""
    lines = [json.loads(line[9:]) for line in path.read_text("utf-8").splitlines()]
    kinds = {"turn": ("episode", "context"), "call": ("episode", "request", "asked"), "end": ("episode",)}
    for kind, names in kinds.items():
        done = [e for e in lines if e["event"] == kind and not e.get("failure")]
        counts = collections.Counter(tuple(e[name] for name in names) for e in done)
        assert max(counts.values()) == 1, (kind, counts.most_common(3))


def test_killed_at_random_moments_of_writing(tmp_path):
    program = [sys.executable, collecting.__file__, str(tmp_path), "3"]
    done = subprocess.run(
        program, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True, capture_output=True, text=True
    )
    *killed, end = json.loads(done.stdout)
    assert end == 0 and set(killed) == {-signal.SIGKILL} and len(killed) >= 20
    ours, whole = (
        sorted(journal.read(tmp_path / f"{n}.jsonl"), key=lambda t: t.id) for n in ("killed", "whole")
    )
    assert ours == whole and len(ours) == collecting.EPISODES and all(t.correct for t in ours)
    assert_done_once(tmp_path / "killed.jsonl")
    names = {f"{name}.{suffix}" for name in ("killed", "whole") for suffix in ("jsonl", "columns")}
    assert {path.name for path in tmp_path.iterdir()} == names
