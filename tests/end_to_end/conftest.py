"""One smoke run, for all tests that look at what a run leaves behind."""

import json
from typing import NamedTuple

import pytest
from command import SMOKE, finish, start


class Run(NamedTuple):
    folder: object
    out: str
    cache: object

    def lines(self, stage):
        records = [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]
        return [r for r in records if r["stage"] == stage]


@pytest.fixture(scope="session")
def smoke(tmp_path_factory):
    folder = tmp_path_factory.mktemp("smoke") / "run"
    cache = tmp_path_factory.mktemp("compiled")
    code, out, err = finish(start(SMOKE, f"--config.run_dir={folder}", cache=cache))
    assert code == 0, err
    return Run(folder, out, cache)
