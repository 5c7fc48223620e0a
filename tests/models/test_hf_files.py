"""Folders of safetensors: we read what the library wrote, and it reads what we wrote; what does not fit is listed."""

import json
import struct

import hf_checkpoint as hf
import numpy as np
import pytest

from mirothinker_jax.config import ConfigError
from mirothinker_jax.models import hf_files
from mirothinker_jax.models.hf import tensors
from mirothinker_jax.models.hf_files import Folder, write

MODEL = hf.MODELS["qwen3-tied"]
EMBEDDING, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"


@pytest.mark.parametrize("name", hf.MODELS)
def test_names_and_shapes_are_the_published_ones(name):
    listed = tensors(hf.MODELS[name], hf.VOCAB)
    assert {t.name: t.shape for t in listed} == hf.shapes(hf.MODELS[name])
    assert listed[0].name == EMBEDDING
    assert listed[-1].name == (NORM if hf.MODELS[name].tied_head else HEAD)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("files", [1, 4])
def test_reading(files, dtype, tmp_path):
    expected = hf.random_bits(MODEL, dtype)
    folder = Folder(hf.save(tmp_path / "hf", MODEL, expected, files))
    listed = tensors(MODEL, hf.VOCAB)
    assert folder.check(listed) == dtype
    hf.assert_same_bits({t.name: folder.read(t.name) for t in listed}, expected)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("shard_bytes", [10**9, 26_000, 1])
def test_writing(shard_bytes, dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(
        hf_files, "BLOCK_BYTES", 200
    )  # a tensor is written in several blocks, the last one shorter
    expected, listed = hf.random_bits(MODEL, dtype), tensors(MODEL, hf.VOCAB)
    waited = []

    def bar(items):
        for item in items:
            yield item
            waited.append(item)  # as a bar advances: when the tensor is written, the last one too

    write(tmp_path, listed, dtype, lambda t: t.ours(expected[t.name]), shard_bytes, bar)
    assert waited == listed
    hf.assert_same_bits(hf.read(tmp_path), expected)
    files = sorted(tmp_path.glob("*.safetensors"))
    for path in files:
        (length,) = struct.unpack("<Q", path.read_bytes()[:8])
        assert length % 8 == 0  # of the format: the numbers are aligned
    if shard_bytes == 10**9:
        assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
        return
    index = json.loads((tmp_path / hf.INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in expected.values())
    assert set(index["weight_map"].values()) == {path.name for path in files}
    assert [path.name for path in files] == [
        f"model-{i + 1:05d}-of-{len(files):05d}.safetensors" for i in range(len(files))
    ]
    if shard_bytes == 1:
        assert len(files) == len(listed)  # a tensor is never split
    else:
        assert all(path.stat().st_size < shard_bytes + 4000 for path in files)  # and a header
    again = Folder(tmp_path)
    assert again.check(listed) == dtype


def test_writing_another_dtype_rounds_to_nearest(tmp_path):
    values, listed = hf.numbers(MODEL, "float32"), tensors(MODEL, hf.VOCAB)
    write(tmp_path, listed, "bfloat16", lambda t: t.ours(values[t.name]), 10**9, iter)
    hf.assert_same_bits(hf.read(tmp_path), {name: value.astype("bfloat16") for name, value in values.items()})


def test_dtypes_may_be_mixed(tmp_path):
    """float32 holds both."""
    values = hf.numbers(MODEL, "bfloat16")
    values[NORM] = values[NORM].astype("float32")
    folder = Folder(hf.save(tmp_path / "hf", MODEL, values))
    assert folder.check(tensors(MODEL, hf.VOCAB)) == "float32"


def test_what_does_not_fit_is_in_one_error(tmp_path):
    values = hf.numbers(MODEL, "bfloat16")
    del values["model.layers.1.self_attn.k_norm.weight"], values["model.layers.2.mlp.up_proj.weight"]
    values["model.layers.3.mlp.up_proj.weight"] = values["rotary.inv_freq"] = np.zeros(2, np.float32)
    values["model.layers.0.mlp.gate_proj.weight"] = values["model.layers.0.mlp.gate_proj.weight"].T.copy()
    values[NORM] = values[NORM].astype(np.float16)
    values["model.layers.0.self_attn.q_norm.weight"] = np.zeros(3, np.int64)
    path = hf.save(tmp_path / "hf", MODEL, values, 2)
    with pytest.raises(ConfigError) as refused:
        Folder(path).check(tensors(MODEL, hf.VOCAB))
    start, _, listed = str(refused.value).partition(": 8 tensors do not fit config.json: ")
    assert start == str(path)
    assert set(listed.split("; ")) == {
        "missing model.layers.1.self_attn.k_norm.weight",
        "missing model.layers.2.mlp.up_proj.weight",
        "unknown model.layers.3.mlp.up_proj.weight",
        "unknown rotary.inv_freq",
        "model.layers.0.mlp.gate_proj.weight is (24, 40), not (40, 24)",
        f"{NORM} is F16, not F32 or BF16",
        "model.layers.0.self_attn.q_norm.weight is (3,), not (8,)",
        "model.layers.0.self_attn.q_norm.weight is I64, not F32 or BF16",
        "load it with transformers and save_pretrained() it in bfloat16",
    }


def test_of_many_that_do_not_fit_some_are_named(tmp_path):
    path = hf.save(tmp_path / "hf", MODEL, {HEAD: np.zeros(3, np.float32)})
    count = len(hf.shapes(MODEL)) + (HEAD not in hf.shapes(MODEL))
    with pytest.raises(ConfigError, match=rf": {count} tensors do not .*; and so on$"):
        Folder(path).check(tensors(MODEL, hf.VOCAB))


def test_an_index_that_names_what_its_file_lacks(tmp_path):
    path = hf.save(tmp_path / "hf", MODEL, hf.numbers(MODEL, "bfloat16"), 2)
    index = json.loads((path / hf.INDEX).read_text())
    files = sorted(set(index["weight_map"].values()))
    index["weight_map"][EMBEDDING] = files[1]
    (path / hf.INDEX).write_text(json.dumps(index))
    with pytest.raises(
        ConfigError, match=rf"1 tensors do not .*: missing {EMBEDDING} \({hf.INDEX} is wrong\)$"
    ):
        Folder(path).check(tensors(MODEL, hf.VOCAB))


def with_head(tmp_path, change):
    values = hf.random_bits(MODEL, "bfloat16")
    values[HEAD] = values[EMBEDDING].copy()
    change(values)
    return Folder(hf.save(tmp_path / "hf", MODEL, values, 2))


def test_a_tied_models_copy_of_the_embedding_is_taken(tmp_path, monkeypatch):
    """As Qwen3-0.6B is published. NaNs are equal where their bits are."""
    monkeypatch.setattr(hf_files, "BLOCK_BYTES", 1000)
    assert with_head(tmp_path, lambda values: None).check(tensors(MODEL, hf.VOCAB)) == "bfloat16"


def in_its_last_number(values):
    values[HEAD].view(np.uint16)[-1, -1] ^= 1


def in_its_dtype(values):
    values[HEAD] = values[EMBEDDING].astype(np.float32)


def in_its_shape(values):
    values[HEAD] = values[HEAD].reshape(-1)


@pytest.mark.parametrize("change", [in_its_last_number, in_its_dtype, in_its_shape])
def test_a_tied_models_other_head_is_refused(change, tmp_path, monkeypatch):
    monkeypatch.setattr(hf_files, "BLOCK_BYTES", 1000)
    with pytest.raises(
        ConfigError, match=rf": 1 tensors .*: {HEAD} differs from {EMBEDDING}, to which config"
    ):
        with_head(tmp_path, change).check(tensors(MODEL, hf.VOCAB))


def test_a_head_without_its_embedding(tmp_path):
    with pytest.raises(ConfigError, match=rf"2 tensors .*{HEAD} differs .*; missing {EMBEDDING}"):
        with_head(tmp_path, lambda values: values.pop(EMBEDDING)).check(tensors(MODEL, hf.VOCAB))
