"""Mistakes that would only show in a later stage are said before the first one."""

import contextlib
import dataclasses

import pytest

from mirothinker_jax.config import (
    Config,
    ConfigError,
    DataConfig,
    EvalConfig,
    MeshConfig,
    RolloutConfig,
    SFTConfig,
    ToolsConfig,
    TrainingConfig,
    WorldConfig,
)
from mirothinker_jax.data.messages import DataError
from mirothinker_jax.pipeline import preflight
from mirothinker_jax.pipeline.inputs import open_inputs, purposes
from mirothinker_jax.pipeline.phases import Phases
from mirothinker_jax.pipeline.preflight import check_settings, check_tokens
from mirothinker_jax.pipeline.prepare import Place, open_acting, open_text

FILE = Config(data=DataConfig(path="my.jsonl"), evaluation=EvalConfig(questions=0))
SMALL = WorldConfig(sources=("airports",), max_entities=60, max_hops=1)
WEB = Config(
    world=SMALL,
    tools=ToolsConfig(names=("google_search",)),
    sft=SFTConfig(expert_episodes=10),
    evaluation=EvalConfig(questions=5),
)


def begin(config):
    """What a run does before it claims its folder; its episodes' tasks and tools, where it has any."""
    with contextlib.ExitStack() as stack:
        check_settings(config)
        return open_acting(config, stack)


def test_what_a_run_asks_for():
    assert purposes(FILE) == []
    assert purposes(Config()) == ["expert", "evaluation"]
    assert purposes(dataclasses.replace(FILE, stages=("sft", "grpo"))) == ["grpo"]


def test_the_web_is_started_only_where_it_is_needed():
    assert begin(FILE) is None
    acting = begin(WEB)
    assert {purpose: len(tasks) for purpose, tasks in acting.tasks.items()} == {"expert": 10, "evaluation": 5}
    assert [tool.spec.name for tool in acting.tools] == ["google_search"]


def test_each_process_records_its_calls_in_a_file_of_its_own(tmp_path, monkeypatch):
    config = dataclasses.replace(
        WEB, tools=ToolsConfig(record=str(tmp_path / "calls.txt"), names=("google_search",))
    )
    assert begin(config).settings.record.endswith("/calls.txt")
    monkeypatch.setattr("jax.process_count", lambda: 2)
    assert begin(config).settings.record.endswith("/calls.0-of-2.txt")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            dataclasses.replace(
                FILE, sft=SFTConfig(training=TrainingConfig(batch_size=12, microbatch_size=12))
            ),
            r"sft\.training\.microbatch_size is 12, not a multiple of mesh data × fsdp × expert = 8",
        ),
        (
            dataclasses.replace(
                FILE,
                mesh=MeshConfig(fsdp=1, context=-1),
                sft=SFTConfig(training=TrainingConfig(sequence_length=500)),
            ),
            r"sft\.training\.sequence_length \(500\) must be a multiple of 2 · mesh\.context \(16\)",
        ),
        (
            dataclasses.replace(FILE, mesh=MeshConfig(fsdp=1, tensor=8)),
            r"mesh\.tensor is 8, which does not divide",
        ),
        (
            dataclasses.replace(WEB, rollout=RolloutConfig(tensor=3)),
            r"^config\.rollout\.tensor is 3, which does not divide the devices of this process \(8\)",
        ),
        (
            dataclasses.replace(WEB, evaluation=EvalConfig(questions=100_000)),
            r"this world gives only \d+ of 50000 heldout questions",
        ),
        (
            dataclasses.replace(WEB, world=dataclasses.replace(SMALL, heldout_fraction=0.0)),
            r"no heldout entities in this world",
        ),
        (
            dataclasses.replace(
                WEB,
                data=DataConfig(path="my.jsonl"),
                tools=ToolsConfig(
                    names=("google_search",), search_url="https://s.test", search_key_env="NO_SUCH_KEY"
                ),
            ),
            r"set the environment variable NO_SUCH_KEY",
        ),
    ],
)
def test_mistakes(config, expected):
    with pytest.raises(ConfigError, match=expected):
        begin(config)


@pytest.mark.parametrize("same", [True, False])
def test_processes_that_see_other_data(tmp_path, monkeypatch, same):
    """A file that was copied to most hosts, or edited on one."""
    path = tmp_path / "my.jsonl"
    path.write_text(
        '{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}\n'
    )
    config = dataclasses.replace(FILE, data=DataConfig(path=str(path)))
    place = Place(config, tmp_path, Phases(tmp_path / "phases.json", enabled=False))
    text = open_text(place, None, open_inputs(config))
    monkeypatch.setattr(preflight.jax, "process_count", lambda: 2)
    monkeypatch.setattr(preflight, "max_over_processes", lambda digest: digest if same else digest + 1)
    monkeypatch.setattr(preflight, "all_processes", bool)
    if same:
        check_tokens(place, text, None, survey_data=False)
    else:
        with pytest.raises(
            DataError, match=r"my\.jsonl: file: is not the same on all processes .*give every"
        ):
            check_tokens(place, text, None, survey_data=False)
