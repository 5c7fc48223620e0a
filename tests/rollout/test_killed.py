"""SIGKILL while episodes are written down: nothing that was finished is lost or done twice."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import collecting
from journals import assert_done_once

from mirothinker_jax.trajectory import journal

ROOT = Path(__file__).resolve().parents[2]


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
