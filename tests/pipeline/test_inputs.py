"""What is wrong with paths, data and tokenizer is said before jax is imported, and leaves nothing behind."""

import json
import subprocess
import sys

import hf_checkpoint as hf
import pytest

from mirothinker_jax.config import Config, ConfigError, DataConfig, ModelConfig, TokenizerConfig
from mirothinker_jax.pipeline.inputs import open_inputs

WITHOUT_JAX = """
import json, sys
from importlib.abc import MetaPathFinder

class Refuse(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("jax", "jaxlib", "flax", "orbax", "grain"):
            raise AssertionError(f"{name} is imported")

sys.meta_path.insert(0, Refuse())
from mirothinker_jax import convert, train
for command, *argv in json.loads(sys.argv[1]):
    try:
        code = {"train": train.main, "convert": convert.main}[command](argv)
    except BaseException as error:
        code = repr(error)
    sys.stderr.write(f"{code}\\n")
"""
CONFIG = """
from mirothinker_jax.config import default

def get_config():
    c = default()
    c.evaluation.questions = 0
    return c
"""
GOOD = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}


def test_mistakes_are_said_without_jax(tmp_path):
    """One process for all of them. The last one has no mistake: that it fails shows that jax is what is missing."""
    (tmp_path / "c.py").write_text(CONFIG)
    (tmp_path / "good.jsonl").write_text(json.dumps(GOOD) + "\n")
    (tmp_path / "bad.jsonl").write_text('{"messages": [\n')
    (tmp_path / "tokenizer.json").write_text("{}")
    model = hf.save(tmp_path / "hf", hf.MODELS["qwen2"], hf.numbers(hf.MODELS["qwen2"], "bfloat16"))
    cut = hf.save(tmp_path / "cut", hf.MODELS["qwen2"], {"a": hf.np.zeros(3, "float32")})
    (cut / "model.safetensors").write_bytes(b"\1")
    train = lambda *more: ["train", "--config", "c.py", *(f"--config.{key}" for key in more)]  # noqa: E731
    convert = lambda way, path, out="out": ["convert", f"--{way}", "hf", "--path", path, "--out", out]  # noqa: E731
    cases = [
        (train("stages=()"), "config.stages is empty: nothing is trained; give some of sft, dpo, grpo"),
        (train("data.path=nowhere.jsonl"), "nowhere.jsonl: no such file; check data.path"),
        (train("data.path=bad.jsonl"), "bad.jsonl:1: "),
        (
            train("data.path=good.jsonl", "data.validation_path=nowhere.jsonl"),
            "nowhere.jsonl: no such file; check data.validation_path",
        ),
        (
            train("data.path=good.jsonl", "tokenizer.path=tokenizer.json"),
            "tokenizer.json: not a tokenizer.json",
        ),
        (
            train("data.path=good.jsonl", "tokenizer.path=nowhere.json"),
            "nowhere.json: no such tokenizer file",
        ),
        (
            train("model.init_from=nowhere"),
            "config.model.init_from: no checkpoint under nowhere (no such folder",
        ),
        (train("model.init_from=hf"), "--from hf --path hf --out runs/NAME, then give runs/NAME"),
        (train("run_dir=c.py/run"), "config.run_dir: "),
        (
            train("data.path=good.jsonl", "tools.corpus=nowhere", "evaluation.questions=3"),
            "tools.corpus: nowhere is not there",
        ),
        (
            train(
                "data.path=good.jsonl",
                "tools.search=tavily",
                "tools.search_key_env=NONE",
                "evaluation.questions=3",
            ),
            "set the environment variable NONE ",
        ),
        (convert("from", "nowhere"), "nowhere/config.json is not there"),
        (convert("from", "cut"), "model.safetensors: "),
        (convert("from", "hf", "good.jsonl"), "good.jsonl exists; give another --out"),
        (convert("from", "hf", "/proc/none/out"), "/proc/none/out: "),
        (convert("to", "nowhere"), "no checkpoint under nowhere (no such folder"),
        (convert("to", "hf"), "hf is a Hugging Face folder already"),
    ]
    before = sorted(tmp_path.rglob("*"))
    argvs = [argv for argv, _ in cases] + [convert("from", "hf")]
    command = [sys.executable, "-c", WITHOUT_JAX, json.dumps(argvs)]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    lines = ended.stderr.splitlines()
    assert len(lines) == 2 * len(cases) + 1, ended.stderr
    for (_, said), line, code in zip(cases, lines[::2], lines[1::2], strict=False):
        assert line.startswith("error: ") and said in line and code == "2", (said, line, code)
    assert "jax" in lines[-1] and "is imported" in lines[-1]
    assert sorted(tmp_path.rglob("*")) == before
    assert model.exists()


def test_a_tokenizer_with_more_tokens_than_the_model(tmp_path):
    hf.write_tokenizer(tmp_path)
    tokenizer = TokenizerConfig(path=str(tmp_path))
    with pytest.raises(ConfigError, match=r"model\.vocab_size is 64, the tokenizer has 259 tokens"):
        open_inputs(Config(model=ModelConfig(vocab_size=64), tokenizer=tokenizer))
    assert open_inputs(Config(tokenizer=tokenizer)).tokenizer.vocab_size == 259


def test_what_is_opened_is_what_the_run_reads(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps(GOOD) + "\n")
    opened = open_inputs(Config(data=DataConfig(path=str(tmp_path / "a.jsonl"))))
    assert len(opened.conversations) == 1 and opened.tokenizer is None


def test_a_run_that_has_begun_needs_its_first_parameters_no_more(tmp_path):
    config = Config(run_dir=str(tmp_path / "run"), model=ModelConfig(init_from=str(tmp_path / "gone")))
    with pytest.raises(ConfigError, match=r"^config\.model\.init_from: no checkpoint under .*gone"):
        open_inputs(config)
    (tmp_path / "run/sft/checkpoints/50").mkdir(parents=True)
    open_inputs(config)


def test_run_folders_that_cannot_be(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    for where, said in (
        ("file", "is a file; give a folder"),
        ("file/run", "is a file; give a folder"),
        ("dangling/run", "is a link to nothing"),
        ("x" * 300, "File name too long"),
    ):
        with pytest.raises(ConfigError, match=said):
            open_inputs(Config(run_dir=str(tmp_path / where)))
    with pytest.raises(ConfigError, match="cannot be written"):
        open_inputs(Config(run_dir="/proc/self/run"))
