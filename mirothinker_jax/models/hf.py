"""Hugging Face's tensors and our parameters: one list that says which is which, both directions. No files here.

Ours are stacked over layers (and experts), and a projection's kernel is [*inputs, *outputs]; theirs are one tensor
per layer (and expert), and a projection's weight is [outputs, inputs], flattened.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np

from mirothinker_jax.config import ModelConfig
from mirothinker_jax.models.qwen import Params, Qwen

Path = tuple[str, ...]  # of a parameter in our tree


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of a Hugging Face checkpoint, and the slice of our parameter that it is."""

    name: str
    path: Path
    index: tuple[int, ...]  # layer, expert: which slice of the parameter
    part: tuple[int, ...]  # the shape of that slice
    inputs: int  # how many dims of the slice are inputs of a projection; 0: the tensor is no projection

    @property
    def shape(self) -> tuple[int, ...]:
        """As it lies in the file."""
        if self.inputs:
            return (math.prod(self.part[self.inputs :]), math.prod(self.part[: self.inputs]))
        return (math.prod(self.part),) if self.path[-1] == "bias" else self.part

    def ours(self, theirs: np.ndarray) -> np.ndarray:
        """A stored tensor in our layout."""
        return (theirs.T if self.inputs else theirs).reshape(self.part)

    def theirs(self, ours: np.ndarray) -> np.ndarray:
        """One of ours in the stored layout."""
        return ours.reshape(self.shape[::-1]).T if self.inputs else ours.reshape(self.shape)


_LAYER = "model.layers.{}."
_EXPERT = _LAYER + "mlp.experts.{}."

# Our path → the file's name (layer and expert filled in), input dims.
_NAMES: dict[Path, tuple[str, int]] = {
    ("embedding",): ("model.embed_tokens.weight", 0),
    ("blocks", "attention_norm", "weight"): (_LAYER + "input_layernorm.weight", 0),
    **{
        ("blocks", "attention", ours, kind): (_LAYER + f"self_attn.{ours}_proj.{theirs}", inputs)
        for ours in "qkv"
        for kind, theirs, inputs in (("kernel", "weight", 1), ("bias", "bias", 0))
    },
    ("blocks", "attention", "q_norm", "weight"): (_LAYER + "self_attn.q_norm.weight", 0),
    ("blocks", "attention", "k_norm", "weight"): (_LAYER + "self_attn.k_norm.weight", 0),
    ("blocks", "attention", "out", "kernel"): (_LAYER + "self_attn.o_proj.weight", 2),
    ("blocks", "mlp_norm", "weight"): (_LAYER + "post_attention_layernorm.weight", 0),
    **{
        ("blocks", "mlp", name, "kernel"): (_LAYER + f"mlp.{name}_proj.weight", 1)
        for name in ("gate", "up", "down")
    },
    ("blocks", "moe", "router", "kernel"): (_LAYER + "mlp.gate.weight", 1),
    **{
        ("blocks", "moe", name, "kernel"): (_EXPERT + f"{name}_proj.weight", 1)
        for name in ("gate", "up", "down")
    },
    ("norm", "weight"): ("model.norm.weight", 0),
    ("head",): ("lm_head.weight", 0),
}


def flatten(params: Params, prefix: Path = ()) -> Iterator[tuple[Path, object]]:
    """(path, leaf) of a nested dict."""
    for key, value in params.items():
        if isinstance(value, dict):
            yield from flatten(value, (*prefix, key))
        else:
            yield (*prefix, key), value


def shapes(model: ModelConfig, vocab_size: int) -> dict[Path, tuple[int, ...]]:
    """Every parameter of the model without adapters, by its path."""
    bare = dataclasses.replace(model, lora=dataclasses.replace(model.lora, rank=0))
    abstract = Qwen.structure(bare, vocab_size)[1]
    return {path: leaf.shape for path, leaf in flatten(abstract)}  # pyright: ignore[reportAttributeAccessIssue]


def tensors(model: ModelConfig, vocab_size: int) -> list[Tensor]:
    """Every tensor of the model's Hugging Face checkpoint, layer by layer, as such files are usually ordered."""
    found = []
    for path, shape in shapes(model, vocab_size).items():
        name, inputs = _NAMES[path]
        stacked = name.count("{}")
        for index in itertools.product(*map(range, shape[:stacked])):
            found.append(Tensor(name.format(*index), path, index, shape[stacked:], inputs))
    order = list(_NAMES)
    return sorted(found, key=lambda t: (t.index[:1] if t.index else _edge(t), order.index(t.path), t.index))


def merged(
    model: ModelConfig, stored: Callable[[Path, tuple[int, ...]], np.ndarray]
) -> Callable[[Tensor], np.ndarray]:
    """Reads a tensor's slice of our parameters, by `stored` of a path and an index, with its adapter's product added in
    float32."""
    lora = model.lora

    def read(tensor: Tensor) -> np.ndarray:
        value = stored(tensor.path, tensor.index)
        *owner, last = tensor.path
        if not (lora.rank and last == "kernel" and owner[-1] in lora.targets):
            return value
        a, b = (stored((*owner, "adapter", leaf), tensor.index) for leaf in ("lora_a", "lora_b"))
        update = a.reshape(-1, lora.rank) @ b.reshape(lora.rank, -1) * (lora.alpha / lora.rank)
        return value.astype(np.float32) + update.reshape(value.shape)  # rounded once, to what is written

    return read


def _edge(tensor: Tensor) -> tuple[float]:
    """Where a tensor of no layer stands: the embedding before the layers, norm and head after them."""
    return (-1.0,) if tensor.path == ("embedding",) else (math.inf,)
