"""Tiny Hugging Face checkpoints of random bits, made and read with the safetensors library alone.

Names and shapes are written out by hand, as the hub has them, so that models/hf.py is not its own witness. The sizes
differ wherever a transposition could hide, and fit a mesh of fsdp 4 × tensor 2.
"""

import dataclasses
import json
from pathlib import Path

import ml_dtypes  # noqa: F401  bfloat16 for numpy
import numpy as np
import safetensors
import safetensors.numpy
import tokenizers
from tokenizers import decoders, pre_tokenizers
from tokenizers.models import BPE

from mirothinker_jax import convert
from mirothinker_jax.config import Config, ModelConfig, MoEConfig, TokenizerConfig
from mirothinker_jax.config_tree import build, to_plain
from mirothinker_jax.models import hf
from mirothinker_jax.models.hf_config import to_hf
from mirothinker_jax.models.presets import architecture
from mirothinker_jax.trainer.checkpoint import model_identity
from mirothinker_jax.trainer.streamed import reader, write_params

VOCAB, HIDDEN, LAYERS, HEADS, KV_HEADS, FFN = 260, 24, 3, 4, 2, 40
SIZES = dict(vocab_size=VOCAB, hidden=HIDDEN, layers=LAYERS, heads=HEADS, kv_heads=KV_HEADS, ffn=FFN)
MODELS = {
    "qwen2": ModelConfig(**SIZES, head_dim=6, qk_norm=False, qkv_bias=True, tied_head=False),
    "qwen3-tied": ModelConfig(**SIZES, head_dim=8, tied_head=True),
    "qwen3-untied": ModelConfig(**SIZES, head_dim=8, tied_head=False),
    "moe": ModelConfig(
        **SIZES,
        head_dim=8,
        tied_head=False,
        moe=MoEConfig(experts=5, experts_per_token=2, expert_ffn=14),
    ),
}
INDEX = "model.safetensors.index.json"
# Not-a-numbers with payloads, quiet and signalling; infinities; denormals; zeros of both signs; ones.
SPECIAL = {
    "bfloat16": (0x7F81, 0x7FC1, 0xFFFF, 0x7F80, 0xFF80, 0x0001, 0x8001, 0x8000, 0x0000, 0x3F80),
    "float32": (
        0x7F800001,
        0x7FC12345,
        0xFFFFFFFF,
        0x7F800000,
        0xFF800000,
        1,
        0x80000001,
        1 << 31,
        0,
        0x3F800000,
    ),
}


def shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Of every tensor of the checkpoint, by its published name."""
    wide, narrow = HEADS * model.head_dim, KV_HEADS * model.head_dim
    found = {"model.embed_tokens.weight": (VOCAB, HIDDEN), "model.norm.weight": (HIDDEN,)}
    if not model.tied_head:
        found["lm_head.weight"] = (VOCAB, HIDDEN)
    for i in range(LAYERS):
        layer = f"model.layers.{i}."
        found[layer + "input_layernorm.weight"] = found[layer + "post_attention_layernorm.weight"] = (HIDDEN,)
        for name, outputs in (("q", wide), ("k", narrow), ("v", narrow)):
            found[layer + f"self_attn.{name}_proj.weight"] = (outputs, HIDDEN)
            if model.qkv_bias:
                found[layer + f"self_attn.{name}_proj.bias"] = (outputs,)
        found[layer + "self_attn.o_proj.weight"] = (HIDDEN, wide)
        if model.qk_norm:
            found |= dict.fromkeys(
                (layer + "self_attn.q_norm.weight", layer + "self_attn.k_norm.weight"), (model.head_dim,)
            )
        owners, inner = [layer + "mlp."], FFN
        if model.moe.experts:
            found[layer + "mlp.gate.weight"] = (model.moe.experts, HIDDEN)
            owners = [layer + f"mlp.experts.{x}." for x in range(model.moe.experts)]
            inner = model.moe.expert_ffn
        for owner in owners:
            found[owner + "gate_proj.weight"] = found[owner + "up_proj.weight"] = (inner, HIDDEN)
            found[owner + "down_proj.weight"] = (HIDDEN, inner)
    return found


def random_bits(model: ModelConfig, dtype: str, seed: int = 0) -> dict[str, np.ndarray]:
    """A checkpoint's tensors: any bits, each with SPECIAL in it; two are all zero, of either sign."""
    rng = np.random.default_rng(seed)
    unsigned = {"bfloat16": np.uint16, "float32": np.uint32}[dtype]
    found = {}
    for name, shape in shapes(model).items():
        bits = rng.integers(0, np.iinfo(unsigned).max, shape, unsigned, endpoint=True)
        some = rng.permutation(bits.size)[: len(SPECIAL[dtype])]
        bits.reshape(-1)[some] = SPECIAL[dtype][: len(some)]
        found[name] = bits.view(dtype)
    found["model.layers.0.mlp.gate.weight" if model.moe.experts else "model.norm.weight"][...] = -0.0
    found["model.layers.1.self_attn.o_proj.weight"][...] = 0.0
    return found


def numbers(model: ModelConfig, dtype: str, seed: int = 0) -> dict[str, np.ndarray]:
    """A checkpoint's tensors, with numbers as weights have."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.normal(size=shape).astype(np.float32).astype(dtype) for name, shape in shapes(model).items()
    }


def save(folder: Path, model: ModelConfig, tensors: dict[str, np.ndarray], files: int = 1, **config) -> Path:
    """Writes them into so many files, with what lies beside them on the hub."""
    folder.mkdir(parents=True)
    names = [f"model-{i + 1:05d}-of-{files:05d}.safetensors" for i in range(files)]
    where = {name: names[i * files // len(tensors)] for i, name in enumerate(tensors)}
    if files == 1:
        safetensors.numpy.save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    else:
        for file in names:
            held = {name: value for name, value in tensors.items() if where[name] == file}
            safetensors.numpy.save_file(held, folder / file, {"format": "pt"})
        total = sum(value.nbytes for value in tensors.values())
        (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": where}))
    values = to_hf(model, VOCAB, {}) | config
    (folder / "config.json").write_text(json.dumps(values))
    write_tokenizer(folder)
    return folder


CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
PAD, IM_START, IM_END = range(256, 259)


def write_tokenizer(folder: Path, more: tuple[str, ...] = ()) -> None:
    """A tokenizer.json of the 256 bytes, CONTROL, and `more` tokens."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = tokenizers.Tokenizer(BPE({letter: i for i, letter in enumerate(letters)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([*CONTROL, *more])
    made.save(str(folder / "tokenizer.json"))


def write_trained(imported: Path, folder: Path, stage: str = "sft", tokenizer: Path | None = None) -> Path:
    """A run as training leaves it, in float32, with the numbers of the one that convert made, and its tokenizer or the
    same one from elsewhere."""
    model = dataclasses.replace(build(ModelConfig, architecture(str(imported))), init_from=str(imported))
    tokenizer = tokenizer or imported / "hf" / "tokenizer.json"
    config = Config(model=model, tokenizer=TokenizerConfig(path=str(tokenizer)), stages=(stage,))
    leaves, read = hf.shapes(model, model.vocab_size), reader(imported / "checkpoints" / "0")
    pieces = [(path, (), lambda path=path: read(path, ()).astype(np.float32)) for path in leaves]
    identity = model_identity(model, model.vocab_size, tokenizer)
    write_params(folder / stage / "checkpoints", leaves, "float32", pieces, identity, to_plain(config))
    return folder


def read(folder: Path) -> dict[str, np.ndarray]:
    """All tensors of a folder, however many files it has."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safetensors.safe_open(path, "np") as file:
            assert file.metadata() == {"format": "pt"}  # transformers refuses others
            for name in file.keys():  # noqa: SIM118  no mapping
                assert name not in found
                found[name] = file.get_tensor(name)
    return found


def run_convert(way: str, source: Path, out: Path, *more: str) -> int:
    """The command's exit code; `way` is "from" or "to"."""
    return convert.main([f"--{way}", "hf", "--path", str(source), "--out", str(out), *more])


def assert_same_bits(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert got[name].dtype == value.dtype and got[name].shape == value.shape, name
        assert got[name].tobytes() == value.tobytes(), name
