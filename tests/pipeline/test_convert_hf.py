"""Runs and Hugging Face folders: bit by bit there and back, restored on a mesh, with their tokenizer and adapters."""

import dataclasses
import json
import shutil

import hf_checkpoint as hf
import jax
import numpy as np
import pytest
import tiny
from hf_checkpoint import run_convert as run

from mirothinker_jax.config import ModelConfig
from mirothinker_jax.config_tree import build
from mirothinker_jax.models import hf_files
from mirothinker_jax.models.hf import flatten, tensors
from mirothinker_jax.models.presets import architecture, read_hf_config
from mirothinker_jax.models.qwen import Qwen
from mirothinker_jax.models.spec import ModelSpec
from mirothinker_jax.trainer import streamed
from mirothinker_jax.trainer.checkpoint import load_params, model_identity

BESIDE = {
    "generation_config.json": '{"top_k": 20}',
    "chat_template.jinja": "{{ messages }}",
    "merges.txt": "a b",
    "LICENSE": "Apache",
}


def import_and_export(source, tmp_path, *more):
    assert run("from", source, tmp_path / "run") == 0
    assert run("to", tmp_path / "run", tmp_path / "back", *more) == 0
    return tmp_path / "back"


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("name", hf.MODELS)
def test_there_and_back_bit_by_bit(name, dtype, tmp_path, monkeypatch, capsys):
    """From one file into several, or the other way round; in chunks and blocks whose last one is shorter."""
    monkeypatch.setattr(streamed, "CHUNK_BYTES", 700)
    monkeypatch.setattr(streamed, "IN_FLIGHT_BYTES", 1500)
    monkeypatch.setattr(hf_files, "BLOCK_BYTES", 500)
    model, expected = hf.MODELS[name], hf.random_bits(hf.MODELS[name], dtype)
    several = dtype == "bfloat16"
    source = hf.save(tmp_path / "hf", model, expected, 3 if several else 1, torch_dtype="float16")
    for file, text in BESIDE.items():
        (source / file).write_text(text)
    back = import_and_export(source, tmp_path, "--shard-gib", "1" if several else "1e-5")
    hf.assert_same_bits(hf.read(back), expected)
    weights = len(list(back.glob("*.safetensors")))
    assert (weights == 1) == several
    if not several:
        index = json.loads((back / hf.INDEX).read_text())
        assert index["metadata"]["total_size"] == sum(value.nbytes for value in expected.values())
    config = json.loads((back / "config.json").read_text())
    assert config["torch_dtype"] == dtype
    assert read_hf_config(back / "config.json") == read_hf_config(source / "config.json")
    assert {file: (back / file).read_text() for file in BESIDE} == BESIDE
    assert len(list(back.iterdir())) == weights + (not several) + 2 + len(BESIDE)
    assert (back / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "hf", "run"]
    assert f"{len(expected)} tensors" in capsys.readouterr().out


def restored(run, mesh, **changes):
    """The parameters of a run, by path, as they come back on a mesh, whose shards are checked."""
    model = dataclasses.replace(build(ModelConfig, architecture(str(run))), **changes)
    spec = ModelSpec.build(model, model.vocab_size, mesh)
    params = load_params(str(run), spec, model_identity(model, hf.VOCAB, run / "hf/tokenizer.json"), seed=0)
    jax.tree.map(lambda p, s: p.sharding.is_equivalent_to(s, p.ndim) or pytest.fail(), params, spec.shardings)
    return {path: np.asarray(value) for path, value in flatten(params)}


@pytest.mark.parametrize("name", ["qwen2", "moe"])
def test_a_run_restores_sharded_and_in_another_dtype(name, tmp_path):
    model, values = hf.MODELS[name], hf.numbers(hf.MODELS[name], "bfloat16")
    assert run("from", hf.save(tmp_path / "hf", model, values), tmp_path / "run") == 0
    meshes = tiny.mesh(), tiny.mesh(fsdp=4, tensor=2)
    for dtype in ("bfloat16", "float32"):
        one, eight = (restored(tmp_path / "run", mesh, param_dtype=dtype) for mesh in meshes)
        tiny.assert_equal(eight, one)
        for tensor in tensors(model, hf.VOCAB):
            expected = tensor.ours(values[tensor.name]).astype(dtype)
            tiny.assert_equal(one[tensor.path][tensor.index], expected)


def test_dtype_of_what_is_written(tmp_path):
    model = hf.MODELS["qwen3-tied"]
    values = hf.numbers(model, "float32")
    source = hf.save(tmp_path / "hf", model, values)
    assert run("from", source, tmp_path / "run", "--dtype", "bfloat16") == 0
    assert run("to", tmp_path / "run", tmp_path / "narrow") == 0
    rounded = {name: value.astype("bfloat16") for name, value in values.items()}
    hf.assert_same_bits(hf.read(tmp_path / "narrow"), rounded)
    assert run("to", tmp_path / "run", tmp_path / "wide", "--dtype", "float32") == 0
    hf.assert_same_bits(hf.read(tmp_path / "wide"), {k: v.astype("float32") for k, v in rounded.items()})
    assert json.loads((tmp_path / "wide/config.json").read_text())["torch_dtype"] == "float32"
    # And a run that holds all of them rounds on the way out.
    assert run("from", source, tmp_path / "whole") == 0
    assert run("to", tmp_path / "whole", tmp_path / "later", "--dtype", "bfloat16") == 0
    hf.assert_same_bits(hf.read(tmp_path / "later"), rounded)


def test_without_training_every_file_keeps_its_bytes(tmp_path, capsys):
    """In whatever spelling; and what is not a model's stays behind, and is named."""
    model = hf.MODELS["qwen3-tied"]
    source = hf.save(tmp_path / "hf", model, hf.numbers(model, "bfloat16"))
    config = json.loads((source / "config.json").read_text()) | {"dtype": "bfloat16", "eos_token_id": hf.PAD}
    theta = config.pop("rope_theta")
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": theta}
    del config["rope_scaling"]
    (source / "config.json").write_text(json.dumps(config, indent=7))
    for file, text in (BESIDE | {"generation_config.json": f'{{ "eos_token_id":{hf.PAD}}}'}).items():
        (source / file).write_text(text)
    (source / "service_account.json").write_text("{}")
    back = import_and_export(source, tmp_path)
    assert "; not copied: service_account.json\n" in capsys.readouterr().out
    assert not list(tmp_path.glob("run/**/service_account.json"))
    others = {path.name: path.read_bytes() for path in back.iterdir() if path.suffix != ".safetensors"}
    assert others.keys() == BESIDE.keys() | {"config.json", "tokenizer.json"}
    assert others == {name: (source / name).read_bytes() for name in others}


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """A run made of a base model of bfloat16, which its config.json says wrongly."""
    folder, model = tmp_path_factory.mktemp("imported"), hf.MODELS["qwen2"]
    values = hf.numbers(model, "bfloat16")
    source = hf.save(folder / "hf", model, values, torch_dtype="float32", eos_token_id=hf.PAD)
    (source / "generation_config.json").write_text(json.dumps({"eos_token_id": hf.PAD, "top_k": 20}))
    assert run("from", source, folder / "run") == 0
    return folder / "run"


def read_json(folder, name):
    return json.loads((folder / name).read_text())


def test_a_trained_run_is_written_as_what_it_began_with_was(imported, tmp_path, capsys):
    """In its dtype, and with an end of turns that all files agree on."""
    trained, out = hf.write_trained(imported, tmp_path / "trained"), tmp_path / "out"
    assert run("to", trained, out) == 0
    assert "of step 0 of sft, bfloat16 (parameters were float32)\n" in capsys.readouterr().out
    hf.assert_same_bits(hf.read(out), hf.read(imported.parent / "hf"))
    assert read_json(out, "config.json")["torch_dtype"] == "bfloat16"
    assert read_json(out, "config.json")["eos_token_id"] == hf.IM_END
    generation = {"eos_token_id": [hf.IM_END, hf.PAD], "top_k": 20, "pad_token_id": hf.PAD}
    assert read_json(out, "generation_config.json") == generation
    assert read_json(out, "tokenizer_config.json") == {"eos_token": "<|im_end|>"}
    assert sorted(path.name for path in out.iterdir()) == [
        *("config.json", "generation_config.json", "model.safetensors", "tokenizer.json"),
        "tokenizer_config.json",
    ]
    assert run("to", trained / "sft", tmp_path / "wide", "--dtype", "float32") == 0
    assert next(iter(hf.read(tmp_path / "wide").values())).dtype == np.float32


def test_a_tokenizer_in_a_folder_of_other_things(imported, tmp_path):
    """Nothing of them is taken: no secrets, no other program's settings, no other model's config."""
    beside, config = tmp_path / "beside", read_json(imported / "hf", "config.json")
    beside.mkdir()
    shutil.copyfile(imported / "hf/tokenizer.json", beside / "tokenizer.json")
    trained = hf.write_trained(imported, tmp_path / "trained", tokenizer=beside / "tokenizer.json")
    for number, other in enumerate(({"api_key": "secret"}, config | {"hidden_size": 8})):
        for name in ("config.json", "service_account.json", "generation_config.json", "notes.txt"):
            (beside / name).write_text(json.dumps(other))
        out = tmp_path / f"out{number}"
        assert run("to", trained, out) == 0
        names = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"]
        assert sorted(path.name for path in out.iterdir()) == [*names, "tokenizer_config.json"]
        written, ends = read_json(out, "config.json"), read_json(out, "generation_config.json")
        assert "api_key" not in written and written["hidden_size"] == hf.HIDDEN
        assert ends == {"eos_token_id": hf.IM_END, "pad_token_id": hf.PAD}
        assert written["torch_dtype"] == "float32"  # nothing says what was imported
    # The folder that the model was downloaded to says it: there, config.json is this model's.
    (beside / "config.json").write_text(json.dumps(config | {"torch_dtype": "bfloat16"}))
    (beside / "generation_config.json").unlink()
    assert run("to", trained, tmp_path / "again") == 0
    assert read_json(tmp_path / "again", "config.json")["torch_dtype"] == "bfloat16"


def test_a_stage_without_a_checkpoint_yet_gives_the_one_before(imported, tmp_path, capsys):
    trained = hf.write_trained(imported, tmp_path / "trained", "dpo")
    (trained / "grpo/checkpoints").mkdir(parents=True)
    assert run("to", trained, tmp_path / "out") == 0
    assert "of step 0 of dpo, " in capsys.readouterr().out


def test_a_tied_models_copied_head(tmp_path, capsys):
    """Qwen3-0.6B's file has one: it goes in, and does not come out."""
    model, values = hf.MODELS["qwen3-tied"], hf.random_bits(hf.MODELS["qwen3-tied"], "bfloat16")
    head = values["model.embed_tokens.weight"].copy()
    source = hf.save(tmp_path / "hf", model, values | {"lm_head.weight": head})
    hf.assert_same_bits(hf.read(import_and_export(source, tmp_path)), values)
    head.view(np.uint16)[0, 0] ^= 1
    other = hf.save(tmp_path / "other", model, values | {"lm_head.weight": head})
    assert run("from", other, tmp_path / "never") == 2
    assert "lm_head.weight differs from model.embed_tokens.weight" in capsys.readouterr().err


def test_adapters_are_merged_into_what_is_exported(tmp_path):
    lora = dataclasses.replace(hf.MODELS["moe"].lora, rank=2, alpha=3.0, targets=("q", "out", "down"))
    model = dataclasses.replace(hf.MODELS["moe"], lora=lora)
    rng = np.random.default_rng(0)
    leaves = dict(flatten(Qwen.structure(model, hf.VOCAB)[1]))
    params = {path: rng.normal(size=leaf.shape).astype(np.float32) for path, leaf in leaves.items()}
    (tmp_path / "tokenizer.json").write_text("{}")
    streamed.write_params(
        tmp_path / "run/checkpoints",
        {path: value.shape for path, value in params.items()},
        "float32",
        [(path, (), lambda value=value: value) for path, value in params.items()],
        model_identity(model, hf.VOCAB, tmp_path / "tokenizer.json"),
        {"model": dataclasses.asdict(model), "tokenizer": {"path": str(tmp_path)}},
    )
    assert run("to", tmp_path / "run", tmp_path / "back") == 0
    found = hf.read(tmp_path / "back")
    assert found.keys() == hf.shapes(model).keys()
    merged = dict(params)
    equations = {"q": "ldr,lrhe->ldhe", "out": "lher,lrd->lhed", "down": "lxfr,lxrd->lxfd"}
    for path in params:
        if path[-1] == "kernel" and path[-2] in equations:
            a, b = (params[*path[:-1], "adapter", leaf].astype(np.float64) for leaf in ("lora_a", "lora_b"))
            merged[path] = params[path] + 1.5 * np.einsum(equations[path[-2]], a, b)
    assert sum(merged[path] is not params[path] for path in params) == 3
    for tensor in tensors(model, hf.VOCAB):
        ours = merged[tensor.path][tensor.index]
        np.testing.assert_allclose(tensor.ours(found[tensor.name]), ours, rtol=1e-5, atol=1e-5)


def test_the_tokenizer_is_the_runs_own(tmp_path, monkeypatch, capsys):
    """A run names it relative to itself, and so may lie anywhere; another one of that name is not taken for it."""
    model = hf.MODELS["qwen3-tied"]
    assert run("from", hf.save(tmp_path / "hf", model, hf.numbers(model, "bfloat16")), tmp_path / "run") == 0
    (tmp_path / "elsewhere/hf").mkdir(parents=True)
    (tmp_path / "elsewhere/hf/tokenizer.json").write_text("another")
    monkeypatch.chdir(tmp_path / "elsewhere")
    shutil.move(tmp_path / "run", "moved")
    assert run("to", "moved", "back") == 0
    source = tmp_path / "hf/tokenizer.json"
    assert (tmp_path / "elsewhere/back/tokenizer.json").read_bytes() == source.read_bytes()
    (tmp_path / "elsewhere/moved/hf/tokenizer.json").unlink()
    capsys.readouterr()
    assert run("to", "moved", "bare") == 0
    said = "; without a tokenizer, and without its eos_token_id: hf/tokenizer.json is gone"
    assert said in capsys.readouterr().out
    assert sorted(p.name for p in (tmp_path / "elsewhere/bare").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
