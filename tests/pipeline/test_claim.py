"""A run folder belongs to the settings it was made with; what nothing was made with yet may change."""

import dataclasses
import json

import pytest

from mirothinker_jax.config import Config, ConfigError
from mirothinker_jax.config_tree import to_plain
from mirothinker_jax.pipeline.claim import check_same, claim

FIRST = Config(stages=("sft",))


def changed(config=FIRST, /, **groups):
    """The config with other values, by group: changed(dpo={"beta": 0.2})."""
    parts = {k: dataclasses.replace(getattr(config, k), **v) for k, v in groups.items()}
    return dataclasses.replace(config, **parts)


def take(folder, config):
    resized = check_same(folder, to_plain(config))
    folder.mkdir(exist_ok=True)
    claim(folder, config, resized, first=True)


@pytest.fixture
def folder(tmp_path):
    """Of a run that has begun: its experts have played."""
    take(tmp_path / "run", FIRST)
    (tmp_path / "run" / "data").mkdir()
    (tmp_path / "run" / "data" / "expert.jsonl").touch()
    return tmp_path / "run"


def kept(folder):
    return json.loads((folder / "config.json").read_text())


def test_what_a_run_was_made_with_stays(folder):
    before = kept(folder)
    with pytest.raises(ConfigError, match=r"made with other settings \(model\.hidden: 128 → 64\)"):
        take(folder, changed(model={"hidden": 64}))
    assert kept(folder) == before


@pytest.mark.parametrize("left", ["metrics.jsonl", "tensorboard/sft/events", "phases.json"])
def test_a_start_that_failed_before_it_made_anything_binds_nothing(tmp_path, left):
    """Else the way out that its error offers would be refused."""
    take(tmp_path, FIRST)
    (tmp_path / left).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / left).touch()
    (tmp_path / "sft" / "checkpoints").mkdir(parents=True)
    take(tmp_path, changed(model={"hidden": 64}, data={"call_format": "mcp", "shards": 2}))
    assert kept(tmp_path)["model"]["hidden"] == 64
    (tmp_path / "sft" / "checkpoints" / "50").mkdir()
    with pytest.raises(ConfigError, match=r"made with other settings \(model\.hidden: 64 → 128"):
        take(tmp_path, FIRST)


def test_settings_of_the_machine_may_change_and_are_recorded(folder):
    take(folder, changed(rollout={"slots": 8}))
    assert kept(folder)["rollout"]["slots"] == 8


@pytest.mark.parametrize(
    ("group", "key", "value", "made"),
    [
        ("dpo", "beta", 0.2, "dpo/samples.jsonl"),
        ("grpo", "group", 4, "grpo/rollouts/step_000000.jsonl"),
        ("evaluation", "questions", 100, "sft/eval_trajectories.jsonl"),
    ],
)
def test_a_stage_not_begun_may_change_until_it_has_left_something(folder, group, key, value, made):
    take(folder, changed(**{group: {key: value}}))
    assert kept(folder)[group][key] == value
    path = folder / made
    path.parent.mkdir(parents=True)
    path.touch()
    with pytest.raises(ConfigError, match=rf"{group}\.{key}: {value} → "):
        take(folder, FIRST)


def test_stages_are_added_behind_those_that_are_there(folder):
    take(folder, dataclasses.replace(FIRST, stages=("sft", "grpo")))
    assert kept(folder)["stages"] == ["sft", "grpo"]
    for stages in (("sft",), ("sft", "dpo", "grpo"), ("grpo",)):
        with pytest.raises(ConfigError, match=r"made with the stages sft, grpo, not .*; stages can only"):
            take(folder, dataclasses.replace(FIRST, stages=stages))
