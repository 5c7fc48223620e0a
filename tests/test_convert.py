"""The convert command where it fails: one line that says why, exit code 2, and nothing left behind."""

import errno
import json
import os
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
    "no index": (unlink(hf.INDEX), f"neither {hf.INDEX} nor model.safetensors is there"),
    "pickles alone": (
        lambda source, out: [path.rename(path.with_suffix(".bin")) for path in source.glob("*.safetensors*")],
        "its *.bin are pickles, which are not read: load it with transformers and save_pretrained() it",
    ),
    "two models": (write("model.safetensors", ""), "has both model.safetensors and "),
    "no config.json": (unlink("config.json"), "config.json is not there, and a Hugging Face model has one"),
    "config.json not JSON": (write("config.json", "{"), "config.json: "),
    "another family": (write("config.json", '{"model_type": "llama"}'), "config.json: model_type is 'llama'"),
    "no tokenizer.json": (unlink("tokenizer.json"), "tokenizer.json is not there, and a run needs it"),
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


def test_folders_made_on_the_way_go_too(checkpoint, tmp_path, capsys):
    assert run("from", checkpoint.parent, tmp_path / "a/b/out") == 2
    assert run("to", checkpoint, tmp_path / "a/b/out") == 2
    assert f"no checkpoint under {checkpoint}" in capsys.readouterr().err
    assert tree(tmp_path) == []


def test_an_empty_folder_may_be_in_the_way(checkpoint, tmp_path):
    (tmp_path / "out").mkdir()
    assert run("from", checkpoint, tmp_path / "out") == 0
    assert tree(tmp_path)[0] == "out" and "out/checkpoints/0" in tree(tmp_path)


def test_a_full_disk(checkpoint, tmp_path, monkeypatch, capsys):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(convert_hf, "shapes", lambda *_: (_ for _ in ()).throw(full))
    assert run("from", checkpoint, tmp_path / "out") == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'out'}: [Errno 28] No space left on device\n"
    assert tree(tmp_path) == []


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
