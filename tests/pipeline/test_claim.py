"""A run folder belongs to the settings it was made with; what nothing was made with yet may change."""

import dataclasses
import json
import shutil

import pytest

from mirothinker_jax.config import Config, ConfigError, ContextConfig, MoEConfig
from mirothinker_jax.config_tree import to_plain
from mirothinker_jax.pipeline.claim import check_same, claim
from mirothinker_jax.rollout.buffer import Buffer, Slots
from mirothinker_jax.rollout.group_log import GroupLog

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


def make(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch() if (folder / name).suffix else (folder / name).mkdir()


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


def trained(config=FIRST, /, **values):
    """The config with other values of SFT's training."""
    return changed(config, sft={"training": dataclasses.replace(config.sft.training, **values)})


OFFLOAD = dataclasses.replace(FIRST.sft.training.optimizer, offload=True)


@pytest.mark.parametrize(
    "other",
    [
        changed(rollout={"slots": 8}),
        changed(data={"validation_path": "heldout.jsonl"}, sft={"validate_every": 7}),
        changed(mesh={"data": 2, "fsdp": 1, "context": -1}),
        changed(model={"remat": "none", "ffn_tokens": 64, "context": ContextConfig(ulysses=2)}),
        changed(data={"read_threads": 0, "survey": False, "path": "moved.jsonl"}),
        changed(tools={"concurrency": 2, "deadline_s": 3.0, "search_key_env": "KEY", "unsafe_sandbox": True}),
        trained(microbatch_size=2, log_every=1, checkpoint_every=7, keep_checkpoints=9, optimizer=OFFLOAD),
    ],
)
def test_what_does_not_change_the_numbers_may_change_and_is_recorded(folder, other):
    make(folder, "sft/checkpoints/50")
    take(folder, other)
    assert kept(folder) == to_plain(other)


def test_data_may_move_when_there_is_a_position_in_them(folder):
    with pytest.raises(ConfigError, match=r"made with other settings \(data\.path:  → moved\.jsonl\)"):
        take(folder, changed(data={"path": "moved.jsonl"}))


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (changed(model={"compute_dtype": "bfloat16"}), r"model\.compute_dtype: float32 → bfloat16"),
        (changed(model={"init_from": "elsewhere"}), r"model\.init_from: "),
        (changed(data={"shards": 2}), r"data\.shards: 4 → 2"),
        (trained(batch_size=16), r"sft\.training\.batch_size: 8 → 16"),
        (trained(sequence_length=64), r"sft\.training\.sequence_length: 2048 → 64"),
        (dataclasses.replace(FIRST, seed=1), r"seed: 0 → 1"),
    ],
)
def test_what_changes_the_numbers_may_not(folder, other, named):
    make(folder, "sft/checkpoints/50")
    with pytest.raises(ConfigError, match=rf"made with other settings \({named}"):
        take(folder, other)


def test_a_mixture_that_is_balanced_keeps_its_microbatches(tmp_path):
    """Its balance loss is of a micro-batch."""
    mixture = changed(model={"moe": MoEConfig(experts=8)})
    take(tmp_path, mixture)
    make(tmp_path, "sft/checkpoints/50")
    with pytest.raises(ConfigError, match=r"sft\.training\.microbatch_size: 8 → 2"):
        take(tmp_path, trained(mixture, microbatch_size=2))
    free = changed(model={"moe": MoEConfig(experts=8, balance_coef=0.0)})
    take(tmp_path / "free", free)
    make(tmp_path / "free", "sft/checkpoints/50")
    take(tmp_path / "free", trained(free, microbatch_size=2))


def test_a_finished_stage_is_lengthened_and_evaluated_again(folder, caplog):
    make(folder, "sft/checkpoints/50", "sft/checkpoints/100", "sft/eval_trajectories.jsonl")
    caplog.set_level("INFO")
    take(folder, trained(steps=300))
    assert (
        "sft.training.steps: 100 → 300, from step 100 on; the learning rate follows the schedule"
        in caplog.text
    )
    assert kept(folder)["sft"]["training"]["steps"] == 300
    assert [p.name for p in (folder / "sft" / "of_step_100").iterdir()] == ["eval_trajectories.jsonl"]
    take(folder, trained(steps=300))
    take(folder, trained(steps=100))  # nothing was trained beyond that yet
    with pytest.raises(
        ConfigError, match=r"^config\.sft\.training\.steps is 99, and .*run has trained 100; give as many"
    ):
        take(folder, trained(steps=99))


@pytest.mark.parametrize(
    "left", ["dpo/samples.jsonl", "dpo/reference.npz", "grpo/rollouts/step_000000.jsonl"]
)
def test_a_stage_under_a_later_one_keeps_its_steps(folder, left):
    make(folder, "sft/checkpoints/100", left)
    later = left.partition("/")[0]
    way_out = rf"and {later} has begun .*; give the former value, or remove .*{later} to"
    with pytest.raises(ConfigError, match=way_out):
        take(folder, trained(steps=200))
    with pytest.raises(
        ConfigError, match=r"^config\.sft\.training\.steps: 100 → 0, sft\.training\.epochs: 0\.0 → 3\.0, and "
    ):
        take(folder, trained(steps=0, epochs=3.0))
    shutil.rmtree(folder / later)
    take(folder, trained(steps=200))


def test_rollouts_beyond_the_checkpoint_are_not_those_of_another_schedule(folder):
    """Those of the next step are: they were sampled with the checkpoint's parameters."""
    both = dataclasses.replace(FIRST, stages=("sft", "grpo"))
    take(folder, both)
    make(folder, "sft/checkpoints/100", "grpo/checkpoints/2")
    records = [
        "step_000001.jsonl",
        "step_000002.jsonl",
        "step_000003.0-of-2.jsonl",
        "step_000003.0-of-2.routes.npz",
    ]
    make(folder, *(f"grpo/rollouts/{name}" for name in records))
    training = dataclasses.replace(both.grpo.training, steps=200)
    take(folder, changed(both, grpo={"training": training}))
    found = {p.relative_to(folder / "grpo" / "rollouts").as_posix() for p in folder.rglob("step_*")}
    assert found == {*records[:2], *(f"beyond_step_2/{name}" for name in records[2:])}


def test_groups_sampled_ahead_are_taken_back_to_the_checkpoint(folder):
    """Files of theirs are not of one step: a group of step_000003 may be trained in step 2."""
    both = dataclasses.replace(FIRST, stages=("sft", "grpo"))
    take(folder, both)
    make(folder, "sft/checkpoints/100", "grpo/checkpoints/2", "grpo/rollouts/step_000003.jsonl")
    rollouts = folder / "grpo" / "rollouts"
    log = GroupLog(rollouts, Buffer(Slots(questions=1, group=2, staleness=1)))
    for step in range(4):
        log.buffer.publish(step)
        while (group := log.admit()) is not None:
            log.finish(group.number, group.members)
        log.take()
    log.close()
    before = (rollouts / "groups.jsonl").read_bytes()
    training = dataclasses.replace(both.grpo.training, steps=200)
    take(folder, changed(both, grpo={"training": training}))
    assert (rollouts / "beyond_step_2" / "groups.jsonl").read_bytes() == before
    assert len(GroupLog(rollouts, Buffer(Slots(questions=1, group=2, staleness=1))).consumed) == 3
    assert (rollouts / "step_000003.jsonl").exists()


def test_what_killed_processes_were_writing_is_removed(folder):
    make(
        folder, ".config.json.7.tmp", "sft/.eval.jsonl.7.tmp", "grpo/rollouts/.step.jsonl.7.tmp", "sft/my.tmp"
    )
    take(folder, FIRST)
    assert [p.name for p in folder.rglob("*.tmp")] == ["my.tmp"]


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
