"""What lies beside a model's weights: which files are copied, and where turns end."""

import json

import hf_checkpoint as hf
import pytest

from mirothinker_jax.config import ConfigError
from mirothinker_jax.data.hf_tokenizer import open_tokenizer
from mirothinker_jax.pipeline.hf_folder import (
    MODEL_FILES,
    TOKENIZER_FILES,
    copy_files,
    eos_ids,
    other_files,
    set_eos,
)

CONFIG = {"model_type": "qwen2"}
END = {"eos_token": "<|endoftext|>"}


@pytest.fixture
def folder(tmp_path):
    """(…file=values) → a folder with a tokenizer.json and these JSON files."""

    def make(**files):
        hf.write_tokenizer(tmp_path)
        for name, values in files.items():
            (tmp_path / f"{name}.json").write_text(values if isinstance(values, str) else json.dumps(values))
        return tmp_path, open_tokenizer(tmp_path, "chatml")

    return make


def test_known_files_alone_are_copied(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    (source / "additional_chat_templates").mkdir(parents=True)
    known = [*(name for name in (*MODEL_FILES, *TOKENIZER_FILES) if "*" not in name)]
    known.append("additional_chat_templates/rag.jinja")
    others = ["README.md", "notes.txt", "service_account.json", "spiece.model", "tokenization_qwen.py"]
    weights = ["a.safetensors", "model.safetensors.index.json", "pytorch_model.bin.index.json", ".env"]
    for name in (*known, *others, *weights):
        (source / name).write_text(name)
    copy_files(source, out, (*MODEL_FILES, *TOKENIZER_FILES))
    assert {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} == set(known)
    assert all((out / name).read_text() == name for name in known)
    assert other_files(source) == others


@pytest.mark.parametrize(
    ("files", "ids"),
    [
        ({}, (258,)),
        ({"config": {**CONFIG, "eos_token_id": 256}}, (258, 256)),
        ({"config": {"eos_token_id": 256}}, (258,)),  # of another program
        ({"config": "not JSON"}, (258,)),
        ({"config": {**CONFIG, "eos_token_id": [258, 7]}}, (258, 7)),
        ({"config": {**CONFIG, "eos_token_id": None}, "generation_config": {"eos_token_id": [256, 258]}}, (258, 256)),
        ({"tokenizer_config": END}, (258, 256)),
        ({"special_tokens_map": {"eos_token": {"content": "<|endoftext|>", "lstrip": False}}}, (258, 256)),
        ({"tokenizer_config": {"eos_token": "</s>"}}, (258,)),  # no token of this tokenizer
        ({"tokenizer_config": {"eos_token": None}}, (258,)),
    ],
)  # fmt: skip
def test_ids_that_end_a_turn(folder, files, ids):
    assert eos_ids(*folder(**files)) == ids


@pytest.mark.parametrize("wrong", ["256", True, -1, [256, "a"], 1.5])
def test_an_id_that_is_none_is_refused(folder, wrong):
    path, codec = folder(generation_config={"eos_token_id": wrong})
    with pytest.raises(ConfigError, match=r"generation_config\.json: eos_token_id is "):
        eos_ids(path, codec)


BASE = {
    "config": {**CONFIG, "eos_token_id": 256, "x": 1},
    "generation_config": {"eos_token_id": 256, "max_new_tokens": 9},
    "tokenizer_config": {**END, "pad_token": "<|endoftext|>"},
    "special_tokens_map": {"eos_token": {"content": "<|endoftext|>", "lstrip": False}},
}
CHAT = {
    "config": {**CONFIG, "eos_token_id": 258},
    "generation_config": {"eos_token_id": [258, 256], "pad_token_id": 256},
    "tokenizer_config": {"eos_token": "<|im_end|>"},
    "special_tokens_map": {"eos_token": {"content": "<|im_end|>"}},
}
SPECIAL = {"eos_token": "<|im_end|>"}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            BASE,
            {
                "config": {**CONFIG, "eos_token_id": 258, "x": 1},
                "generation_config": {"eos_token_id": [258, 256], "max_new_tokens": 9, "pad_token_id": 256},
                "tokenizer_config": {**SPECIAL, "pad_token": "<|endoftext|>"},
                "special_tokens_map": SPECIAL,
            },
        ),
        (CHAT, CHAT),
        (
            {"config": CONFIG},
            {
                "config": {**CONFIG, "eos_token_id": 258},
                "generation_config": {"eos_token_id": 258, "pad_token_id": 256},
                "tokenizer_config": SPECIAL,
            },
        ),
        (  # a pad token that is the eos is somebody's choice
            {**CHAT, "generation_config": {"eos_token_id": 258, "pad_token_id": 258}},
            {**CHAT, "generation_config": {"eos_token_id": 258, "pad_token_id": 258}},
        ),
    ],
    ids=["base", "chat", "nothing said", "pad is eos"],
)
def test_a_trained_exports_files_agree(folder, files, expected):
    path, codec = folder(**files)
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    set_eos(path, codec, with_tokenizer=True)
    written = {file.stem: json.loads(file.read_text()) for file in path.iterdir()}
    del written["tokenizer"]
    assert written == expected
    if files == expected:  # then they keep their bytes as well
        assert {file.name: file.read_bytes() for file in path.iterdir()} == before


def test_an_export_without_a_tokenizer_gets_no_settings_of_one(folder):
    path, codec = folder(config=CONFIG)
    set_eos(path, codec, with_tokenizer=False)
    assert not (path / "tokenizer_config.json").exists()
    assert json.loads((path / "generation_config.json").read_text())["eos_token_id"] == 258
