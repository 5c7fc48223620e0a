"""Config files: by path and by name, with and without an argument, and the line that is wrong in one."""

import dataclasses
import json
from pathlib import Path

import pytest
from command_lines import GOOD, Small, fails, written

from mirothinker_jax import flags
from mirothinker_jax.config_tree import to_plain


def test_a_config_by_name_or_path(tmp_path, monkeypatch):
    """From any folder; a file that exists is what is meant, whatever its name."""
    monkeypatch.chdir(tmp_path)
    assert flags.parse(["--config", "toy/smoke"]) == flags.parse(["--config", "toy/smoke.py"])
    prompt = Path(flags.parse(["--config", "toy/smoke"]).agent.system_prompt_file)
    assert prompt.is_absolute() and prompt.is_file()
    assert flags.parse(["--config", "qwen/sft:qwen3-4b"]).model.layers == 36
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "smoke.py").write_text(GOOD)
    (tmp_path / "a:b.py").write_text("def get_config(x):\n    return {'limit': len(x), 'rates': (1.0,)}\n")
    assert flags.parse(["--config", "toy/smoke.py"]).seed == 3
    assert flags.parse(["--config", "toy/smoke"]).run_dir == "runs/smoke"
    assert flags.parse(["--config", "a:b.py:c:d"], Small).limit == 3


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("mine/pipline.py", "did you mean mine/pipeline.py?"),
        ("toy/smok", "did you mean toy/smoke"),
        ("configs/toy/smoke.py", "did you mean toy/smoke?"),
        ("qwen/stf:runs/a", "did you mean qwen/sft"),
        ("toy", "did you mean toy/pipeline or toy/sft or toy/smoke or toy/study?"),
        ("zzz", "there are: agent/chat, mirothinker/dpo, "),
        (f"toy/{'x' * 5000}", "there are: "),
    ],
)
def test_a_missing_config_lists_near_ones(capsys, tmp_path, monkeypatch, given, hint):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "pipeline.py").write_text(GOOD)
    monkeypatch.chdir(tmp_path)
    line = fails(capsys, "--config", given)
    assert line.startswith(f"there is no config file {given.partition(':')[0]}, and no config of that name")
    assert hint in line


@pytest.mark.parametrize("stage", ["sft", "dpo", "grpo"])
def test_mirothinkers_stages_take_a_size_and_a_run(stage, tmp_path, capsys):
    config = f"mirothinker/{stage}"
    sizes = {size: flags.parse(["--config", f"{config}:{size}"]) for size in ("8b", "30B", "72b", "235b")}
    assert [c.model.layers for c in sizes.values()] == [36, 48, 80, 94]
    assert [c.mesh.context for c in sizes.values()] == [16, 16, 32, 16]
    assert {c.model.yarn.factor * c.model.yarn.native_tokens for c in sizes.values()} == {262_144}
    # A run keeps its own sizes, and its own way to 256K tokens; the size says how its rows are split.
    native = dataclasses.replace(sizes["30B"], run_dir="x", stages=("sft",))
    (tmp_path / "config.json").write_text(json.dumps(to_plain(native)))
    c = flags.parse(["--config", f"{config}:8b,{tmp_path}"])
    assert (c.model.moe.experts, c.model.yarn.factor, c.model.init_from) == (128, 1.0, str(tmp_path))
    assert (c.mesh.context, c.run_dir) == (16, f"runs/mirothinker-8b-{stage}")
    for wrong in ("", ":", ":12b", ":8b,", ":qwen3-8b"):
        line = fails(capsys, "--config", f"{config}{wrong}")
        assert "SIZE is one of 8b, 30b, 72b, 235b" in line
    assert "'nope' is neither a run" in fails(capsys, "--config", f"{config}:8b,nope")


def test_an_argument_behind_the_file(capsys, tmp_path):
    takes = written(tmp_path, "def get_config(model):\n    return {'limit': len(model), 'rates': (1.0,)}\n")
    assert flags.parse(["--config", f"{takes}:runs/a:b.py"], Small) == Small(11, (1.0,))
    for nothing in (takes, f"{takes}:"):
        assert fails(capsys, "--config", nothing).endswith(
            f"needs a model behind its name: --config {takes}:MODEL"
        )
    (tmp_path / "other").mkdir()
    plain = written(tmp_path / "other", GOOD)
    assert "takes nothing behind its name; write --config" in fails(capsys, "--config", f"{plain}:x")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = 1\n", "bad.py defines no get_config()"),
        ("def get_config():\n    return 5\n", "bad.py: get_config() returned int"),
        ("def get_config(:\n", "bad.py:1: invalid syntax"),
        ("import nothing_of_this_name\n", "bad.py:1: ModuleNotFoundError: No module named"),
        (
            "def get_config():\n    return helper()\ndef helper():\n    return 1 / 0\n",
            "bad.py:4: ZeroDivisionError",
        ),
        (
            GOOD.replace("c.seed = 3", "c.modle.hidden = 3"),
            "bad.py:6: AttributeError: 'modle' Did you mean \"model\"",
        ),
        (
            GOOD.replace("c.seed = 3", "c.model.hiden = 3"),
            'bad.py:6: AttributeError: Key "hiden" does not exist',
        ),
        (GOOD.replace("c.seed = 3", "c.seed = 'x'"), "bad.py:6: TypeError"),
        ("def get_config():\n    return {'sft': 1}\n", "config.sft is 1; it is a group of settings"),
        ("def get_config():\n    return {'sft': 1}\n", "set config.sft.KEY"),
        (
            "def get_config():\n    return {'model': {'hidden': 1.5}}\n",
            "config.model.hidden is 1.5 (float); it must be of type int",
        ),
        (
            "def get_config():\n    return {'seed': True}\n",
            "config.seed is True (bool); it must be of type int",
        ),
        (
            "def get_config():\n    return {'stages': [1]}\n",
            "config.stages is 1 (int); it must be of type str",
        ),
        ("def get_config():\n    return {'modle': {}}\n", "unknown key config.modle"),
        ("raise ValueError('two\\nlines')\n", "bad.py:1: ValueError: two lines"),
    ],
)
def test_broken_files(capsys, tmp_path, text, expected):
    assert expected in fails(capsys, "--config", written(tmp_path, text))


def test_not_a_python_file(capsys, tmp_path):
    assert "must end in .py" in fails(capsys, "--config", written(tmp_path, GOOD, "config.txt"))
