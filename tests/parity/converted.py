"""Tiny random models of the transformers library, saved as such models are, and converted into runs by our command."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import torch
import transformers
from hf_checkpoint import write_tokenizer

from mirothinker_jax import convert
from mirothinker_jax.config import MeshConfig, ModelConfig
from mirothinker_jax.config_tree import build
from mirothinker_jax.models.presets import architecture
from mirothinker_jax.models.spec import ModelSpec
from mirothinker_jax.parallel.mesh import make_mesh
from mirothinker_jax.trainer.checkpoint import load_params, model_identity

VOCAB = 260
COMMON = dict(
    vocab_size=VOCAB,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=48,
    max_position_embeddings=512,
    rope_theta=1e4,
)
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
QWEN3, MOE = (
    dict(head_dim=16),
    dict(head_dim=16, num_experts=8, num_experts_per_tok=3, moe_intermediate_size=24, norm_topk_prob=True),
)
CASES = {
    "qwen2-untied": ("qwen2", dict(tie_word_embeddings=False, head_dim=12)),
    "qwen2-yarn": ("qwen2", dict(tie_word_embeddings=True, rope_scaling=YARN)),
    "qwen3-untied": (
        "qwen3",
        dict(
            **QWEN3, tie_word_embeddings=False, rope_scaling=YARN | {"factor": 1.0, "attention_factor": 1.3}
        ),
    ),
    "qwen3-tied": ("qwen3", dict(**QWEN3, tie_word_embeddings=True)),
    "qwen3-yarn": ("qwen3", dict(**QWEN3, tie_word_embeddings=True, rope_scaling=YARN)),
    "moe-untied": (
        "qwen3_moe",  # without head_dim: hidden_size / num_attention_heads
        dict(**{k: v for k, v in MOE.items() if k != "head_dim"}, tie_word_embeddings=False),
    ),
    "moe-yarn": (
        "qwen3_moe",
        dict(**MOE | {"norm_topk_prob": False}, tie_word_embeddings=True, rope_scaling=YARN),
    ),
}


@dataclasses.dataclass
class Pair:
    """The same model twice."""

    theirs: Any
    folder: Path  # Hugging Face's
    run: Path  # ours
    spec: ModelSpec
    params: Any


def random_model(family: str, options: dict, folder: Path, seed: int = 0):
    """A model of this family with every parameter random, norms and biases included, saved to `folder`."""
    kinds = {"qwen2": "Qwen2", "qwen3": "Qwen3", "qwen3_moe": "Qwen3Moe"}
    torch.manual_seed(seed)
    config = getattr(transformers, f"{kinds[family]}Config")(**COMMON | options)
    model = getattr(transformers, f"{kinds[family]}ForCausalLM")(config).float().eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("norm.weight"):
                p.copy_(1 + 0.1 * torch.randn_like(p))
            else:
                p.normal_(0, 0.1 if p.ndim == 1 else p.shape[-1] ** -0.5)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return model


def loaded(run: Path, **changes: Any) -> tuple[ModelSpec, Any]:
    """A run that convert made, on one device."""
    model = dataclasses.replace(build(ModelConfig, architecture(str(run))), **{"remat": "none"} | changes)
    mesh = make_mesh(MeshConfig(fsdp=1), jax.devices()[:1])
    spec = ModelSpec.build(model, model.vocab_size, mesh)
    identity = model_identity(model, model.vocab_size, run / "hf" / "tokenizer.json")
    return spec, load_params(str(run), spec, identity, seed=0)


def converted(case: str, folder: Path) -> Pair:
    """One of CASES, made, saved and converted."""
    theirs = random_model(*CASES[case], folder / "hf")
    assert convert.main(["--from", "hf", "--path", str(folder / "hf"), "--out", str(folder / "run")]) == 0
    return Pair(theirs, folder / "hf", folder / "run", *loaded(folder / "run"))
