"""The convert command where it fails: one line that says why, exit code 2, and nothing left behind."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys

import hf_checkpoint as hf
import pytest
from hf_checkpoint import run_convert as run

from mirothinker_jax.pipeline import convert_hf


def unlink(name):
    return lambda source, out: (source / name).unlink()


def write(name, text):
    return lambda source, out: (source / name).write_text(text)


def truncate(source, out):
    os.truncate(source / SHARD, (source / SHARD).stat().st_size - 1)


def fill(source, out):
    out.mkdir()
    (out / "kept").touch()


def change_config(source, **values):
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | values))


SHARD = "model-00002-of-00003.safetensors"
BROKEN = {  # what was done to the folders, and what the error must say
    "missing shard": (unlink(SHARD), f"{hf.INDEX} names {SHARD}, not there; download"),
    "truncated shard": (truncate, f"{SHARD}: "),
    "empty shard": (write(SHARD, ""), f"{SHARD}: "),
    "garbage shard": (write(SHARD, "x" * 1000), f"{SHARD}: "),
    "index not JSON": (write(hf.INDEX, "{"), f"{hf.INDEX}: no weight_map"),
    "index without map": (write(hf.INDEX, "{}"), f"{hf.INDEX}: no weight_map"),
    "index of numbers": (write(hf.INDEX, '{"weight_map": {"a": 1}}'), f"{hf.INDEX}: no weight_map"),
    "index that leads away": (write(hf.INDEX, '{"weight_map": {"a": "../b"}}'), f"{hf.INDEX}: no weight_map"),
    "no index": (
        unlink(hf.INDEX),
        f"neither {hf.INDEX} nor model.safetensors is there; its *.safetensors are parts",
    ),
    "no weights": (
        lambda source, out: [path.unlink() for path in source.glob("*.safetensors*")],
        "is there; give a Hugging Face model's folder",
    ),
    "pickles alone": (
        lambda source, out: [path.rename(path.with_suffix(".bin")) for path in source.glob("*.safetensors*")],
        "its *.bin are pickles, not read here: load it with transformers and save_pretrained() it",
    ),
    "two models": (write("model.safetensors", ""), "has both model.safetensors and "),
    "no config.json": (unlink("config.json"), "config.json is not there, and a Hugging Face model has one"),
    "config.json not JSON": (write("config.json", "{"), "config.json: "),
    "another family": (write("config.json", '{"model_type": "llama"}'), "config.json: model_type is 'llama'"),
    "no tokenizer.json": (unlink("tokenizer.json"), "tokenizer.json is not there, and a run needs it"),
    "tokenizer.json of a kind that training refuses": (
        write("tokenizer.json", '{"model": {"type": "WordLevel"}, "added_tokens": []}'),
        "tokenizer.json: lacks the added token <|endoftext|>",
    ),
    "more tokens than embeddings": (
        lambda source, out: hf.write_tokenizer(source, ("<a>", "<b>")),
        "has 261 tokens, and the model of",
    ),
    "eos_token_id in words": (
        write("generation_config.json", '{"eos_token_id": "<|endoftext|>"}'),
        "generation_config.json: eos_token_id is '<|endoftext|>'; give a token's id",
    ),
    "generation_config.json cut off": (write("generation_config.json", "{"), "generation_config.json: "),
    "a run": (
        lambda source, out: (source / "checkpoints/0").mkdir(parents=True),
        "is a run already, not a Hugging Face folder; give --to hf",
    ),
    "tensors of another size": (
        lambda source, out: change_config(source, hidden_size=32),
        "tensors do not fit config.json: model.embed_tokens.weight is (260, 24), not (260, 32)",
    ),
    "no folder": (lambda source, out: shutil.rmtree(source), "config.json is not there"),
    "full --out": (fill, "exists; give another --out, or remove it"),
    "file as --out": (lambda source, out: out.touch(), "exists; give another --out, or remove it"),
}


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    model = hf.MODELS["qwen2"]
    return hf.save(tmp_path_factory.mktemp("checkpoint") / "hf", model, hf.numbers(model, "bfloat16"), 3)


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_wrong_is_said_in_a_line_and_leaves_nothing(case, checkpoint, tmp_path, capsys):
    source, out = tmp_path / "hf", tmp_path / "out"
    shutil.copytree(checkpoint, source)
    damage, said = BROKEN[case]
    damage(source, out)
    before = tree(tmp_path)
    assert run("from", source, out) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n")
    assert said in err
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "out",
    ["hf/out", ""],
    ids=["out within path", "path within out"],
)
def test_folders_one_in_the_other(checkpoint, tmp_path, capsys, out):
    shutil.copytree(checkpoint, tmp_path / "hf")
    before = tree(tmp_path)
    assert run("from", tmp_path / "hf", tmp_path / out) == 2
    assert f"{tmp_path / out} and {tmp_path / 'hf'} lie one in the other" in capsys.readouterr().err
    assert tree(tmp_path) == before


def test_folders_made_on_the_way_go_too(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(convert_hf, "tensors", lambda *_: (_ for _ in ()).throw(OSError("out of order")))
    assert run("from", checkpoint, tmp_path / "a/b/out") == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'a/b/out'}: out of order\n"
    assert tree(tmp_path) == []


def test_ctrl_c(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(convert_hf, "tensors", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert run("from", checkpoint, tmp_path / "out") == 130
    assert "stopped; nothing is left of" in capsys.readouterr().err
    assert tree(tmp_path) == []


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ("nowhere", "nowhere (no such folder, now in "),
        ("empty", "empty; give a run folder or one of its stage folders"),
        ("hf", "is a Hugging Face folder already; give --from hf"),
    ],
)
def test_what_is_no_run(checkpoint, tmp_path, capsys, there, said):
    path = checkpoint if there == "hf" else tmp_path / there
    if there == "empty":
        (path / "sft/checkpoints/4.orbax-checkpoint-tmp").mkdir(parents=True)
    assert run("to", path, tmp_path / "out") == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_empty_folder_may_be_in_the_way(checkpoint, tmp_path):
    (tmp_path / "out").mkdir()
    assert run("from", checkpoint, tmp_path / "out") == 0
    assert tree(tmp_path)[0] == "out" and "out/checkpoints/0" in tree(tmp_path)


@pytest.mark.parametrize("way", ["from", "to"])
def test_a_disk_that_takes_no_more(checkpoint, tmp_path, capsys, way):
    """Stood in for by a limit on the size of files, which fails the very writes that a full disk would."""
    path = checkpoint
    if way == "to":
        path = tmp_path / "run"
        assert run("from", checkpoint, path) == 0
    before, limits = tree(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    capsys.readouterr()
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        code = run(way, path, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    err = capsys.readouterr().err.splitlines()[-1]
    assert code == 2 and err.startswith(f"error: {tmp_path / 'out'}: ") and "File too large" in err
    assert tree(tmp_path) == before


@pytest.mark.parametrize("way", ["from", "to"])
def test_a_url_is_no_folder(way, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for source, out in (("gs://bucket/run", "out"), ("run", "gs://bucket/out")):
        assert run(way, source, out) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: --") and err.count("\n") == 1
        assert " is 'gs://bucket/" in err and "URLs are not read or written" in err
    assert tree(tmp_path) == []


def test_a_checkpoint_that_lost_its_numbers(checkpoint, tmp_path, capsys):
    """A converted run has one step, which carries digests like any other."""
    assert run("from", checkpoint, tmp_path / "run") == 0
    digests = tmp_path / "run/checkpoints/0/digests.json"
    files = {str(p.relative_to(digests.parent)) for p in digests.parent.rglob("*") if p.is_file()}
    assert json.loads(digests.read_text().splitlines()[0]).keys() == files - {digests.name}
    shutil.rmtree(tmp_path / "run/checkpoints/0/state/d")
    capsys.readouterr()
    assert run("to", tmp_path / "run", tmp_path / "out") == 2
    err = capsys.readouterr().err
    assert err.startswith(
        f"error: {tmp_path / 'run/checkpoints'}: every checkpoint is damaged (0: state/d/"
    ) and err.endswith(" begin its training anew\n")
    assert err.count("\n") == 1 and " is missing)" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


@pytest.mark.parametrize("size", ["0", "-1", "nan", "inf", "large"])
def test_shard_sizes(size, capsys):
    with pytest.raises(SystemExit) as ended:
        run("to", "a", "b", "--shard-gib", size)
    assert ended.value.code == 2 and f"{size!r} is not a number above 0" in capsys.readouterr().err


KILLED = """
import itertools, os, signal, sys
from mirothinker_jax import convert
from mirothinker_jax.models.hf_files import Folder
numbers, read = itertools.count(), Folder.read
def read_or_die(folder, name):
    if next(numbers) == 20:
        os.kill(os.getpid(), signal.SIGKILL)
    return read(folder, name)
Folder.read = read_or_die
convert.main(sys.argv[1:])
"""


def test_killed_in_the_middle(checkpoint, tmp_path):
    """--out is not there, and the next attempt, over what is left, makes the whole of it."""
    out, partial = tmp_path / "out", tmp_path / ".out.partial"
    command = [sys.executable, "-c", KILLED, "--from", "hf", "--path", str(checkpoint), "--out", str(out)]
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    ended = subprocess.run(command, env=environment, capture_output=True, timeout=300)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == [partial.name]
    assert any((partial / "checkpoints/0/state/d").iterdir())
    (partial / "stray").touch()
    assert run("from", checkpoint, out) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not (out / "stray").exists()
    assert run("to", out, tmp_path / "back") == 0
    hf.assert_same_bits(hf.read(tmp_path / "back"), hf.read(checkpoint))
