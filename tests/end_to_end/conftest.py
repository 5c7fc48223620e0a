"""One smoke run, for all tests that look at what a run leaves behind."""

import fcntl
import json
import os
from typing import NamedTuple

import pytest
from command import SMOKE, finish, start


class Run(NamedTuple):
    folder: object
    out: str

    def lines(self, stage):
        records = [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]
        return [r for r in records if r["stage"] == stage]


@pytest.fixture(scope="session")
def smoke(tmp_path_factory):
    """Whichever worker asks first makes the run; the others wait for it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    said = shared / "smoke.out"
    with (shared / "smoke.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not said.exists():
            code, out, err = finish(start(SMOKE, f"--config.run_dir={shared / 'smoke'}"))
            assert code == 0, err
            said.write_text(out)
    return Run(shared / "smoke", said.read_text())
