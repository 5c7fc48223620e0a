"""The way from a command line to a frozen Config, and every mistake on it: one line, exit code 2, no jax."""

import dataclasses
import json
import subprocess
import sys
import time

import pytest
from command_lines import GOOD, Small, fails, written
from hypothesis import given
from hypothesis import strategies as st

from mirothinker_jax import config, flags
from mirothinker_jax.config import AgentConfig, Config, ConfigError, build, default
from mirothinker_jax.config_tree import difference, flat, keys, to_plain


@pytest.fixture(scope="session")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("configs") / "good.py"
    path.write_text(GOOD)
    return str(path)


def test_default_tree_builds_the_default_config():
    assert build(Config, default()) == Config()
    assert build(Config, {}) == Config()


def test_resolved_config_survives_json():
    tree = default()
    tree.stages, tree.tokenizer.symbols, tree.mesh.context = ("sft", "dpo"), (" ", '{"a": "'), 2
    built = build(Config, tree)
    again = build(Config, json.loads(json.dumps(to_plain(built))))
    assert again == built
    assert built.tokenizer.symbols == (" ", '{"a": "')


def test_every_key_says_what_it_means():
    assert [key.name for key in keys(Config) if not key.meaning] == []


def test_what_may_change_names_keys():
    names = [key.name for key in keys(Config)]
    assert [free for free in config.FREE_SETTINGS if not any(name.startswith(free) for name in names)] == []


def test_file_and_overrides(good):
    argv = ["--config", good, "--config.run_dir=runs/a=b", "--config.stages", "sft,dpo"]
    argv += [
        "--config.evaluation.budgets=(0, 1)",
        "--config.data.shuffle=no",
        "--config.tools.unsafe_sandbox",
    ]
    argv += ["--config.sft.training.optimizer.learning_rate=3", "--config.tokenizer.symbols=(' ', 'a, b')"]
    own = ["--out", "x", "--config.data.shuffle", "why?"]  # a boolean takes no value
    assert flags.split([*own[:2], *argv, *own[2:]]) == ([*argv, own[2]], ["--out", "x", "why?"])
    c = flags.parse(argv)
    assert (c.seed, c.run_dir, c.stages) == (3, "runs/a=b", ("sft", "dpo"))
    assert c.evaluation.budgets == (0, 1)
    assert (c.data.shuffle, c.tools.unsafe_sandbox) == (False, True)
    assert repr(c.sft.training.optimizer.learning_rate) == "3.0"
    assert c.tokenizer.symbols == (" ", "a, b")
    with pytest.raises(dataclasses.FrozenInstanceError):
        c.seed = 4  # pyright: ignore


def test_a_path_may_begin_at_home(good, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    paths = [
        "--config.run_dir=~/runs/a",
        "--config.data.path=~/a*.jsonl, ~/b.jsonl",
        "--config.model.init_from=~",
    ]
    c = flags.parse(["--config", good, *paths])
    assert (c.run_dir, c.model.init_from) == ("/home/me/runs/a", "/home/me")
    assert c.data.path == "/home/me/a*.jsonl,/home/me/b.jsonl"


def test_the_last_of_two_values_wins_and_references_follow(good):
    c = flags.parse(
        [
            "--config",
            good,
            "--config.seed=1",
            "--config.seed=2",
            "--config.grpo.training.sequence_length=2048",
        ]
    )
    assert c.seed == 2
    assert c.agent.context_tokens == 2048


KEYS = keys(Config)
values = {
    int: st.integers(),
    float: st.floats(allow_nan=False, allow_infinity=False),
    bool: st.booleans(),
    str: st.text(),
}


@given(st.data())
def test_what_is_typed_is_what_is_set(data):
    key = data.draw(st.sampled_from(KEYS))
    if key.hint in values:
        drawn = data.draw(values[key.hint])
    else:
        drawn = tuple(data.draw(st.lists(values[key.hint.__args__[0]])))
    assert flags.parse_value(key, str(drawn)) == drawn


def test_optional_values_and_float_tuples(tmp_path):
    path = written(tmp_path, "def get_config():\n    return {'limit': None, 'rates': [1, 0.25]}\n")
    assert flags.parse(["--config", path], Small) == Small(None, (1.0, 0.25))
    assert flags.parse(["--config", path, "--config.limit=7", "--config.rates=2"], Small) == Small(7, (2.0,))
    assert flags.parse(["--config", path, "--config.limit=none", "--config.rates=()"], Small) == Small(
        None, ()
    )


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as stopped:
        flags.parse(["--help"], description="Trains a research agent.")
    out, err = capsys.readouterr()
    assert stopped.value.code == 0 and err == ""
    assert out.startswith("Trains a research agent.\n")
    assert out.count("python -m mirothinker_jax.train --config toy/pipeline") == 2
    for key in keys(Config):
        assert f"--config.{key.name}=" in out
    assert "--config.evaluation.budgets=0,1,2,4,8,16,32  (tuple[int, ...])" in out
    assert "base of the rotary embedding" in out


def test_missing_config(capsys):
    assert "--config toy/pipeline" in fails(capsys, "--config.seed=1")
    assert "--config has no value" in fails(capsys, "--config")


def test_the_scripts_name_themselves(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/mirothinker-train"])
    assert "for example: mirothinker-train --config toy/pipeline" in fails(capsys)
    assert flags.started_as("plan --topology v5p") == "python -m mirothinker_jax.plan --topology v5p"


def test_adapters_need_a_model(capsys, tmp_path):
    line = fails(capsys, "--config", written(tmp_path, GOOD), "--config.model.lora.rank=4")
    assert "model.lora.rank is 4 without model.init_from" in line and "name a converted run" in line


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("--config.modl.hidden=3", "unknown key config.modl.hidden; did you mean config.model.hidden?"),
        (
            "--config.grpo.optimizer.learning_rate=3",
            "did you mean config.grpo.training.optimizer.learning_rate?",
        ),
        ("--config.hiddne=3", "did you mean config.model.hidden?"),
        ("--config.qqqqqq=3", "unknown key config.qqqqqq; --help lists all keys"),
        ("--config.sft=3", "config.sft is a group of settings; set one of its keys"),
        ("--config.seed=abc", "config.seed=abc is not a whole number"),
        ("--config.seed=1.5", "config.seed=1.5 is not a whole number"),
        ("--config.world.slow_s=soon", "config.world.slow_s=soon is not a number"),
        ("--config.data.shuffle=maybe", "config.data.shuffle=maybe is not true or false"),
        ("--config.evaluation.budgets=1,x", "config.evaluation.budgets=1,x is not a whole number"),
        (
            "--config.sft.training.optimizer.learning_rate=nan",
            "learning_rate is nan; it must be a finite number",
        ),
        ("--config.seed", "--config.seed has no value"),
        ("--verbose", "unknown argument --verbose"),
        ("--config.mesh.data=0", "config.mesh.data is 0; give ≥ 1"),
        ("--config.mesh.data=-1", "config.mesh.data and mesh.fsdp are all -1; only one axis"),
        ("--config.model.ffn_tokens=-1", "config.model.ffn_tokens is -1; give 0 for all of a device's"),
        ("--config.model.heads=3", "config.model.heads (3) must be a multiple of model.kv_heads (2)"),
        (
            "--config.sft.training.microbatch_size=3",
            "config.sft.training.batch_size (8) must be a multiple of training.microbatch_size (3)",
        ),
        (
            "--config.sft.training.optimizer.schedule=cos",
            "config.sft.training.optimizer.schedule is 'cos'; choose one of",
        ),
        ("--config.stages=grpo,sft", "config.stages is ('grpo', 'sft'); they run in the order"),
        (
            "--config.sft.training.sequence_length=0",
            "config.sft.training.sequence_length is 0; it must be ≥ 1",
        ),
        (
            "--config.data.shards=3",
            "config.sft.training.batch_size (8) must be a multiple of data.shards (3)",
        ),
        (
            "--config.agent.turn_tokens=2048",
            "config.agent.turn_tokens (2048) must be below agent.context_tokens (2048)",
        ),
        ("--config.run_dir=", "config.run_dir is empty; give a folder"),
        (
            "--config.data.path=~nobody-here/x",
            "config.data.path is '~nobody-here/x', and there is no such user",
        ),
        ("--config.seed=-1", "config.seed is -1; give 0 ≤ seed < 2³¹"),
        ("--config.sft.training.optimizer.b2=1", "config.sft.training.optimizer.b2 is 1.0; give 0 ≤ x < 1"),
        ("--config.evaluation.budgets=()", "config.evaluation.budgets is empty; give calls"),
        ("--config.grpo.question_pool=0", "config.grpo.question_pool is 0; it must be ≥ 1"),
        ("--config.agent.max_calls=5", "config.sft.expert_calls (6) is more than the agent is allowed"),
        (
            "--config.tools.tool_rates=('google_search',)",
            "tools.tool_rates holds 'google_search'; write TOOL:NUMBER",
        ),
        (
            "--config.tools.tool_rates=('a:0',)",
            "tools.tool_rates holds 'a:0'; write TOOL:NUMBER with a number above 0",
        ),
        ("--config.tools.tool_rates=('a:1','a:2')", "config.tools.tool_rates names a twice"),
        (
            "--config.tools.tool_concurrency=('a:1.5',)",
            "tools.tool_concurrency is 1.5 for a; give whole numbers",
        ),
        ("--config.tools.retries=-1", "config.tools.retries is -1; it must be ≥ 0"),
        ("--config.tools.breaker_failures=-1", "config.tools.breaker_failures is -1; 0 is off"),
        ("--config.tools.breaker_open_s=0", "config.tools.breaker_open_s is 0.0; it must be > 0"),
        ("--config.tools.sandbox=docker", "config.tools.sandbox"),
        ("--config.tools.sandboxes=0", "config.tools.sandboxes is 0; it must be ≥ 1"),
        ("--config.tools.sandbox_bytes=1000", "config.tools.sandbox_bytes is 1,000; Python"),
        ("--config.tools.sandbox_url=https://s.test", "tools.sandbox_template are of tools.sandbox=e2b"),
        (
            "--config.tools.record=gs://b/x",
            "config.tools.record is 'gs://b/x', and URLs are not read or written",
        ),
        (
            "--config.tools.search_url=https://s.test",
            "config.tools.search, tools.search_url or tools.corpus leads away",
        ),
        ("--config.agent.preset=v2", "config.agent.preset is 'v2'; choose one of "),
        ("--config.agent.keep_results=0", "config.agent.keep_results is 0; give ≥ 1, or -1 for all"),
        ("--config.agent.high_results=9", "say when results are cut to agent.keep_results, which is -1"),
        (
            "--config.agent.restart_with=hope",
            "config.agent.restart_with is 'hope'; choose one of summary, nothing",
        ),
        ("--config.agent.outage_calls=0", "config.agent.outage_calls is 0; it must be ≥ 1"),
        ("--config.world.port=70000", "config.world.port is 70000; give 0 … 65535"),
    ],
)
def test_wrong_arguments(capsys, good, argument, expected):
    line = fails(capsys, "--config", good, argument)
    assert expected in line


@pytest.mark.parametrize(
    ("preset", "numbers"),
    [  # calls, context, turn, results that are kept, rollbacks in a row, restarts, what they are told
        ("v1.0", (600, 262_144, 16_384, 5, 4, 5, "summary")),
        ("v1.5", (400, 262_144, 16_384, 5, 4, 5, "summary")),
        ("v1.7", (300, 262_144, 16_384, 5, 4, 5, "nothing")),
        ("react", (20, 262_144, 16_384, -1, 0, 0, "summary")),
        ("none", (0, 262_144, 16_384, -1, 0, 0, "summary")),
        ("", (16, 2048, 96, -1, 0, 0, "summary")),
    ],
)
def test_presets_of_the_agent(preset, numbers):
    names = (
        "max_calls",
        "context_tokens",
        "turn_tokens",
        "keep_results",
        "rollbacks",
        "restarts",
        "restart_with",
    )
    agent = AgentConfig(preset=preset)
    assert tuple(getattr(agent, name) for name in names) == numbers
    assert bool(agent.context_edits()) == preset.startswith("v1")


def test_a_setting_beside_a_preset_wins(good):
    """Also one that has the value that it would have without the preset, and one from the file."""
    argv = ["--config", good, "--config.agent.preset=v1.5", "--config.agent.turn_tokens=64"]
    argv += ["--config.agent.max_calls=16", "--config.agent.fallback=false"]
    argv += ["--config.evaluation.top_p=0.95", "--config.evaluation.temperature=0"]
    config = flags.parse(argv)
    agent, sampling = config.agent, config.evaluation
    assert (sampling.temperature, sampling.top_p, sampling.repetition_penalty) == (0.0, 0.95, 1.05)
    assert Config().evaluation.repetition_penalty == 1.0 and build(Config, to_plain(config)) == config
    assert (agent.max_calls, agent.fallback) == (16, False)
    assert (agent.context_tokens, agent.turn_tokens) == (2048, 64)
    assert (agent.keep_results, agent.final_answer) == (5, "always")
    assert build(AgentConfig, to_plain(agent)) == agent


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ("--config.stages=dpo", "--config.dpo.training.sequence_length=1000"),
            "config.dpo.training.sequence_length (1000) must hold two episodes: at least 2 · "
            "agent.context_tokens (4096)",
        ),
        (
            ("--config.model.ffn_tokens=64", "--config.model.moe.experts=8"),
            "config.model.ffn_tokens is 64, which is for feed-forward blocks without experts",
        ),
        (
            ("--config.model.ffn_tokens=64", "--config.model.lora.rank=4", "--config.model.init_from=run"),
            "and adapters (model.lora.targets); give 0",
        ),
        (
            ("--config.agent.keep_results=5", "--config.agent.high_results=4"),
            "config.agent.high_results (4) must be above agent.keep_results (5)",
        ),
        (
            (
                "--config.stages=grpo",
                "--config.agent.keep_results=5",
                "--config.model.moe.experts=8",
                "--config.grpo.replay_routes=True",
            ),
            "config.grpo.replay_routes is set with agent.keep_results=5: a token that stands in several contexts",
        ),
        (
            ("--config.grpo.loss=clip", "--config.grpo.sampler_correction=tis"),
            "config.grpo.sampler_correction is 'tis' with grpo.loss 'clip'",
        ),
        (
            ("--config.sft.training.steps=100", "--config.sft.training.epochs=3"),
            "training.steps is 100 and training.epochs 3.0; give one of them, and 0 for the other",
        ),
        (
            ("--config.sft.training.steps=0",),
            "training.steps is 0 and training.epochs 0.0; give one of them, and 0 for the other",
        ),
        (
            ("--config.data.validation_path=a.jsonl", "--config.data.validation_fraction=0.1"),
            "data.validation_path and data.validation_fraction are both set; give one of them",
        ),
        (
            ("--config.data.validation_fraction=0.1", "--config.stages=grpo"),
            "data.validation_path and data.validation_fraction need the stage sft, which stages lacks",
        ),
        *(
            (
                (f"--config.{key}={url}",),
                f"config.{key} is '{url}', and URLs are not read or written; give a path",
            )
            for key, url in {
                "run_dir": "gs://bucket/run",
                "data.path": "more.jsonl,https://example.org/my.jsonl",
                "tokenizer.path": "hf://Qwen/Qwen3-8B",
                "model.init_from": "s3://bucket/run",
                "agent.system_prompt_file": "file:///prompt.txt",
            }.items()
        ),
    ],
)
def test_arguments_that_do_not_go_together(capsys, good, arguments, expected):
    line = fails(capsys, "--config", good, *arguments)
    assert expected in line


def test_read_raises_for_callers_in_python(good):
    with pytest.raises(ConfigError, match="unknown key"):
        flags.read(["--config", good, "--config.sed=1"], Config, "program", "example.py")


def test_difference_names_keys_with_both_values():
    old, new = to_plain(Config()), to_plain(Config(seed=5))
    new["model"] |= {"hidden": 256}
    del new["data"]["open_bins"]
    assert difference(old, old) == []
    assert difference(old, new) == ["seed: 0 → 5", "model.hidden: 128 → 256", "data.open_bins: 16 → (absent)"]
    assert difference({}, {"a": {"b": [1]}}) == ["a.b: (absent) → [1]"]
    assert flat({"a": {"b": 1}, "c": []}) == {"a.b": 1, "c": []}


def test_a_typo_is_reported_before_jax_is_imported(good):
    program = (
        "import sys\n"
        "from mirothinker_jax import flags\n"
        "try:\n"
        "    flags.parse(sys.argv[1:])\n"
        "finally:\n"
        "    print(sorted(m for m in ('jax', 'flax', 'numpy') if m in sys.modules))\n"
    )
    begun = time.monotonic()
    argv = [sys.executable, "-c", program, "--config", good, "--config.sede=1"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert time.monotonic() - begun < 20  # about 0.3 s on an idle machine; importing jax alone takes longer
    assert done.returncode == 2
    assert done.stdout == "[]\n"
    assert done.stderr == "error: unknown key config.sede; did you mean config.seed?\n"


def test_config_exports_the_builder():
    assert config.build is build and config.ConfigError is ConfigError
