"""A trained export generates up to `<|im_end|>` and stops in transformers, whatever the base model's files said."""

import itertools
import json

import hf_checkpoint as hf
import numpy as np
import pytest
from hf_checkpoint import run_convert as run

from mirothinker_jax.config import ModelConfig

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIZE = 264  # of the vocabulary and of the residual stream: token t is the unit vector t
CHAIN = [65, 66, 67, hf.IM_END, 68, 69, hf.PAD, 70, 71]  # each token makes the next one the likeliest
MODEL = ModelConfig(
    vocab_size=SIZE, hidden=SIZE, layers=1, heads=2, kv_heads=1, head_dim=4, ffn=8, qk_norm=False, qkv_bias=True,
    tied_head=False,
)  # fmt: skip
BASE = {"bos_token_id": hf.PAD, "eos_token_id": hf.PAD}  # as Qwen's base models


def chain():
    """A checkpoint whose blocks add nothing to the residual stream."""
    shapes = {
        "model.embed_tokens.weight": (SIZE, SIZE),
        "lm_head.weight": (SIZE, SIZE),
        "model.norm.weight": (SIZE,),
    }
    layer = "model.layers.0."
    shapes |= {layer + f"{name}_layernorm.weight": (SIZE,) for name in ("input", "post_attention")}
    for name, rows in (("q", 8), ("k", 4), ("v", 4)):
        shapes |= {
            layer + f"self_attn.{name}_proj.weight": (rows, SIZE),
            layer + f"self_attn.{name}_proj.bias": (rows,),
        }
    shapes |= {layer + "self_attn.o_proj.weight": (SIZE, 8), layer + "mlp.down_proj.weight": (SIZE, 8)}
    shapes |= {layer + f"mlp.{name}_proj.weight": (8, SIZE) for name in ("gate", "up")}
    tensors = {name: np.zeros(shape, np.float32).astype("bfloat16") for name, shape in shapes.items()}
    for name in shapes:
        if name.endswith("norm.weight"):
            tensors[name][...] = 1
    tensors["model.embed_tokens.weight"][...] = np.eye(SIZE)
    for token, following in itertools.pairwise(CHAIN):
        tensors["lm_head.weight"][following, token] = 1
    return tensors


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """A run made of a base model's folder."""
    folder = tmp_path_factory.mktemp("base")
    source = hf.save(folder / "hf", MODEL, chain(), **BASE, torch_dtype="bfloat16", vocab_size=SIZE)
    (source / "generation_config.json").write_text(json.dumps(BASE | {"max_new_tokens": 8}))
    (source / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"})
    )
    assert run("from", source, folder / "run") == 0
    return folder / "run"


def generated(folder):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    return model.generate(torch.tensor([CHAIN[:1]]), do_sample=False, max_new_tokens=8)[0].tolist()


def test_generate_stops_where_training_ended_turns(imported, tmp_path):
    assert run("to", imported, tmp_path / "untrained") == 0
    assert generated(tmp_path / "untrained") == CHAIN[:7]  # through <|im_end|>, to <|endoftext|>
    trained = hf.write_trained(imported, tmp_path / "trained")
    assert run("to", trained, tmp_path / "exported") == 0
    assert generated(tmp_path / "exported") == CHAIN[:4]
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "exported")
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("<|im_end|>", hf.IM_END)
    (tmp_path / "exported/generation_config.json").unlink()  # then config.json decides
    assert generated(tmp_path / "exported") == CHAIN[:4]
