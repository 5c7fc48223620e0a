"""Runs and Hugging Face folders, turned into each other file to file, one tensor in memory at a time.

A run made here has `checkpoints/0` and, under `hf/`, the model's config and tokenizer files as they were; that is what
goes back into a Hugging Face folder beside the weights. Both functions write into a folder that the caller renames
when they are done, and raise ConfigError for what the user can mend.

Left out: optimizer state (an export has none), and tokenizers that transformers cannot read (a toy run's).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from mirothinker_jax.config import ConfigError, ModelConfig
from mirothinker_jax.config_tree import build
from mirothinker_jax.models.hf import Tensor, shapes, tensors
from mirothinker_jax.models.hf_config import to_hf
from mirothinker_jax.models.hf_files import Folder, write
from mirothinker_jax.models.presets import HF_FOLDER, read_hf_config
from mirothinker_jax.trainer.checkpoint import model_identity, read_item
from mirothinker_jax.trainer.metrics import progress
from mirothinker_jax.trainer.steps import newest
from mirothinker_jax.trainer.streamed import Index, Leaf, Piece, reader, write_params

BESIDE_WEIGHTS = (
    ".json",
    ".jinja",
    ".txt",
    ".model",
)  # config, tokenizer, template; not the weights' own index
TOKENIZER = f"{HF_FOLDER}/tokenizer.json"  # of a run made here


def from_hf(source: Path, out: Path, dtype: str | None) -> str:
    """Writes a run folder. Returns what to say about it."""
    for name, what in (("config.json", "a Hugging Face model has one"), ("tokenizer.json", "a run needs it")):
        if not (source / name).is_file():
            raise ConfigError(f"{source / name} is not there, and {what}; give a model's folder as --path")
    fields = read_hf_config(source / "config.json")
    try:
        model = build(ModelConfig, fields)
    except ConfigError as error:
        raise ConfigError(f"{source / 'config.json'}: {error}") from None
    listed = tensors(model, model.vocab_size)
    files = Folder(source)
    stored = files.check(listed)
    dtype = dtype or stored
    model = dataclasses.replace(model, param_dtype=dtype)
    _copy(source, out / HF_FOLDER)

    def pieces() -> Iterator[Piece]:
        for tensor in _bar(listed):
            read = lambda t=tensor: t.ours(files.read(t.name)).astype(dtype, copy=False)  # noqa: E731
            yield tensor.path, tensor.index, read

    record = {"model": dataclasses.asdict(model), "tokenizer": {"path": TOKENIZER}}
    identity = model_identity(model, model.vocab_size, out / TOKENIZER)
    write_params(out / "checkpoints", shapes(model, model.vocab_size), dtype, pieces(), identity, record)
    said = dtype if dtype == stored else f"{dtype} (was {stored})"
    return f"{len(listed)} tensors, {said}"


def to_hf_folder(run: Path, out: Path, dtype: str | None, shard_bytes: int) -> str:
    """Writes safetensors, config.json and the tokenizer's files of the newest checkpoint. Returns what to say."""
    step = newest(str(run))
    identity, record = read_item(step, "identity"), read_item(step, "config")
    model = build(ModelConfig, record["model"])
    vocab_size = identity["vocab_size"]
    tokenizer = record["tokenizer"]["path"]
    base = _base_folder(step.parent, tokenizer, identity["tokenizer_sha256"])
    published = base / "config.json" if base else None
    values = json.loads(published.read_text(encoding="utf-8")) if published and published.is_file() else {}
    dtype = dtype or model.param_dtype
    values = to_hf(model, vocab_size, values) | {"torch_dtype": dtype}
    values.pop("dtype", None)  # transformers 5's newer name of the same
    listed = tensors(model, vocab_size)
    read = _merge_adapters(model, reader(step))
    write(out, listed, dtype, read, shard_bytes, _bar)
    if base:
        _copy(base, out)
    (out / "config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    without = ""
    if base is None:
        without = "; without a tokenizer: " + (
            f"{tokenizer} is gone, or another one by now"
            if tokenizer and not tokenizer.endswith(".model")
            else "this run's is not one that transformers reads"
        )
    return f"{len(listed)} tensors of step {step.name}, {dtype}{without}"


def _merge_adapters(
    model: ModelConfig, stored: Callable[[Leaf, Index], np.ndarray]
) -> Callable[[Tensor], np.ndarray]:
    """Reads a tensor's slice of our parameters, with its adapter's product added in float32."""
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


def _base_folder(checkpoints: Path, tokenizer: str, sha256: str) -> Path | None:
    """Where the Hugging Face files lie that belong to this checkpoint: beside its very tokenizer.

    A run made here names it relative to itself, a trained one relative to where it was started.
    """
    for path in (checkpoints.parent / tokenizer, Path(tokenizer)):
        file = path / "tokenizer.json" if path.is_dir() else path
        found = file.name == "tokenizer.json" and file.is_file()
        if found and hashlib.sha256(file.read_bytes()).hexdigest() == sha256:
            return file.parent
    return None


def _copy(source: Path, out: Path) -> None:
    """What belongs to a model beside its weights."""
    out.mkdir(exist_ok=True)
    for file in sorted(source.iterdir()):
        if file.is_file() and file.suffix in BESIDE_WEIGHTS and not file.name.endswith(".index.json"):
            shutil.copyfile(file, out / file.name)


def _bar(listed: Iterable[Tensor]) -> Iterator[Tensor]:
    listed = list(listed)
    with progress(len(listed), 0, "converting", "tensor") as bar:
        for tensor in listed:
            yield tensor
            bar.advance()
