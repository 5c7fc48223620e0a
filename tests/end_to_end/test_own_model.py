"""A Hugging Face folder becomes a run, trains on calls in Qwen's own format, and goes back: as a user does it.

The tokenizer is Qwen3's real one; the model has its vocabulary and is tiny otherwise.
"""

import json
import shutil

import numpy as np
import pytest
from command import ROOT, finish, start

from mirothinker_jax import convert
from mirothinker_jax.config import ModelConfig
from mirothinker_jax.models.hf import tensors
from mirothinker_jax.models.hf_config import to_hf
from mirothinker_jax.models.hf_files import Folder, write

VOCAB = 151_936
MODEL = ModelConfig(
    vocab_size=VOCAB, hidden=16, layers=2, heads=2, kv_heads=1, head_dim=8, ffn=32, param_dtype="bfloat16"
)
TOOLS = [{"type": "function", "function": {"name": "search", "parameters": {"type": "object"}}}]
CALL = {"function": {"name": "search", "arguments": {"q": "KTM"}}}
RECORD = {
    "tools": TOOLS,
    "messages": [
        {"role": "user", "content": "Where is KTM?"},
        {"role": "assistant", "content": "<think>look</think>", "tool_calls": [CALL]},
        {"role": "tool", "content": "KTM is in Kathmandu <|im_end|>"},
        {"role": "assistant", "content": "<think>found</think>\\boxed{Kathmandu}"},
    ],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, qwen_folder):
    """What a user downloads."""
    folder = tmp_path_factory.mktemp("hf")
    listed, rng = tensors(MODEL, VOCAB), np.random.default_rng(0)
    values = {t.name: rng.normal(0, 0.05, t.part).astype(np.float32) for t in listed}
    write(folder, listed, "bfloat16", lambda t: values[t.name], 1 << 21, iter)
    (folder / "config.json").write_text(json.dumps(to_hf(MODEL, VOCAB, {"eos_token_id": 151643})))
    (folder / "generation_config.json").write_text('{"eos_token_id": 151643}')  # as a base model's
    settings = json.loads((qwen_folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"eos_token": "<|endoftext|>"}))
    shutil.copyfile(qwen_folder / "tokenizer.json", folder / "tokenizer.json")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("config", ["sft.py", "lora.py"])
def test_from_hugging_face_through_training_and_back(folder, tmp_path, config):
    run, trained, back = (tmp_path / name for name in ("run", "trained", "back"))
    assert convert.main(["--from", "hf", "--path", str(folder), "--out", str(run)]) == 0
    data = tmp_path / "my.jsonl"
    data.write_text(f"{json.dumps(RECORD)}\n" * 4)
    small = {
        "steps": 2,
        "batch_size": 2,
        "microbatch_size": 1,
        "sequence_length": 256,
        "optimizer.learning_rate": 0.1,
    }
    settings = [f"--config.sft.training.{key}={value}" for key, value in small.items()]
    process = start(
        f"{ROOT}/configs/qwen/{config}:{run}",
        f"--config.run_dir={trained}",
        f"--config.data.path={data}",
        "--config.data.shards=1",
        "--config.data.call_format=hermes",
        *settings,
    )
    code, _, err = finish(process)
    assert code == 0, err
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["stage"] == "sft"] == [0, 1]
    assert 11 < lines[0]["loss"] < 13, "a random model of this vocabulary is at ln V = 11.9"

    assert convert.main(["--to", "hf", "--path", str(trained), "--out", str(back)]) == 0
    written = json.loads((back / "config.json").read_text())
    assert written["eos_token_id"] == 151645 and written["torch_dtype"] == "bfloat16"
    assert json.loads((back / "generation_config.json").read_text())["eos_token_id"] == [151645, 151643]
    assert json.loads((back / "tokenizer_config.json").read_text())["eos_token"] == "<|im_end|>"
    assert (back / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    listed, before, after = tensors(MODEL, VOCAB), Folder(folder), Folder(back)
    assert after.check(listed) == "bfloat16"
    moved = {t.name for t in listed if np.any(before.read(t.name) != after.read(t.name))}
    projections = {t.name for t in listed if t.inputs}
    assert moved == projections if config == "lora.py" else projections < moved
