"""Runs and Hugging Face folders, turned into each other file to file, one tensor in memory at a time.

A run made here has `checkpoints/0` and, under `hf/`, the model's config and tokenizer files as they were (hf_folder.py
lists them); that is what goes back into a Hugging Face folder beside the weights. Without training in between nothing
of it changes. After training, config.json says what the model is by now, and all files say that `<|im_end|>` ends a
turn. Both functions write into a folder that the caller renames when they are done, and raise ConfigError for what the
user can mend.

Left out: optimizer state (an export has none), and tokenizers that transformers cannot read (a toy run's).
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mirothinker_jax.config import ConfigError, ModelConfig
from mirothinker_jax.config_tree import build
from mirothinker_jax.data.hf_tokenizer import open_tokenizer
from mirothinker_jax.models.hf import Tensor, merged, shapes, tensors
from mirothinker_jax.models.hf_config import from_hf as fields_of
from mirothinker_jax.models.hf_config import to_hf
from mirothinker_jax.models.hf_files import write
from mirothinker_jax.models.presets import HF_FOLDER
from mirothinker_jax.pipeline.hf_folder import (
    CONFIG,
    IMPORT,
    MODEL_FILES,
    TOKENIZER_FILES,
    copy_files,
    other_files,
    read_json,
    set_eos,
    write_json,
)
from mirothinker_jax.pipeline.inputs import Source
from mirothinker_jax.trainer.checkpoint import model_identity, read_item
from mirothinker_jax.trainer.metrics import progress
from mirothinker_jax.trainer.steps import newest
from mirothinker_jax.trainer.streamed import Piece, reader, write_params

TOKENIZER = f"{HF_FOLDER}/tokenizer.json"  # of a run made here
_DTYPE_KEYS = ("torch_dtype", "dtype")  # the second is transformers 5's name of the same
_SIZES = ("hidden", "layers", "heads", "kv_heads", "head_dim", "ffn", "qk_norm")


def from_hf(source: Source, out: Path, dtype: str | None) -> str:
    """Writes a run folder. Returns what to say about it."""
    model = source.model
    listed = tensors(model, model.vocab_size)
    stored = source.files.check(listed)
    dtype = dtype or stored
    model = dataclasses.replace(model, param_dtype=dtype)
    copy_files(source.path, out / HF_FOLDER, (*MODEL_FILES, *TOKENIZER_FILES))
    write_json(out / HF_FOLDER / IMPORT, {"dtype": dtype})

    def pieces() -> Iterator[Piece]:
        for tensor in _bar(listed):
            read = lambda t=tensor: t.ours(source.files.read(t.name)).astype(dtype, copy=False)  # noqa: E731
            yield tensor.path, tensor.index, read

    record = {"model": dataclasses.asdict(model), "tokenizer": {"path": TOKENIZER}}
    identity = model_identity(model, model.vocab_size, out / TOKENIZER)
    write_params(out / "checkpoints", shapes(model, model.vocab_size), dtype, pieces(), identity, record)
    said = f"{len(listed)} tensors, {dtype if dtype == stored else f'{dtype} (was {stored})'}"
    left = other_files(source.path)
    if left:
        said += f"; not copied: {', '.join(left[:5])}{f' and {len(left) - 5} more' if len(left) > 5 else ''}"
    return said


def to_hf_folder(run: Path, out: Path, dtype: str | None, shard_bytes: int) -> str:
    """Writes safetensors, config.json and the tokenizer's files of the newest checkpoint. Returns what to say."""
    step = newest(str(run))
    identity, record = read_item(step, "identity"), read_item(step, "config")
    model = build(ModelConfig, record["model"])
    trained, vocab_size = "stages" in record, identity["vocab_size"]
    tokenizer = _find_tokenizer(step.parent, record["tokenizer"]["path"], identity["tokenizer_sha256"])
    base = tokenizer.parent if tokenizer and tokenizer.name == "tokenizer.json" else None
    published = _published(base, model) if base else {}
    dtype = dtype or _imported_dtype(base, published, record) or model.param_dtype
    values = to_hf(model, vocab_size, published)
    if {values[key] for key in _DTYPE_KEYS if key in values} != {dtype}:
        values = {key: value for key, value in values.items() if key not in _DTYPE_KEYS} | {
            "torch_dtype": dtype
        }
    listed = tensors(model, vocab_size)
    read = merged(model, reader(step))
    write(out, listed, dtype, read, shard_bytes, _bar)
    if base:
        copy_files(base, out, (*(MODEL_FILES if published else ()), *TOKENIZER_FILES))
    if values != published:
        write_json(out / CONFIG, values)
    if trained and tokenizer:
        set_eos(out, open_tokenizer(tokenizer, "chatml"), with_tokenizer=base is not None)
    return _summary(len(listed), step, dtype, model, tokenizer, record)


def _summary(
    count: int,
    step: Path,
    dtype: str,
    model: ModelConfig,
    tokenizer: Path | None,
    record: dict[str, Any],
) -> str:
    """What was written, of which stage, and what is not as one would expect."""
    stage = f" of {step.parent.parent.name}" if "stages" in record else ""
    said = f"{count} tensors of step {step.name}{stage}, {dtype}"
    if dtype != model.param_dtype:
        said += f" (parameters were {model.param_dtype})"
    named = record["tokenizer"]["path"]
    if tokenizer is None and named and not named.endswith(".model"):
        said += f"; without a tokenizer, and without its eos_token_id: {named} is gone, or another one by now"
    elif tokenizer is None or tokenizer.name != "tokenizer.json":
        said += "; without a tokenizer: this run's is not one that transformers reads"
    return said


def _published(base: Path, model: ModelConfig) -> dict[str, Any]:
    """The config.json in `base`, if it is of a model of these sizes; else {}: only the tokenizer is this run's."""
    try:
        values = read_json(base / CONFIG)
        fields = fields_of(values)
    except ConfigError:
        return {}
    return values if all(fields[key] == getattr(model, key) for key in _SIZES) else {}


def _imported_dtype(base: Path | None, published: dict[str, Any], record: dict[str, Any]) -> str | None:
    """The dtype of the run that convert made, where this one began with such a run. Where its folder is gone, but the
    tokenizer is that of the model's own folder: as config.json there has it."""
    if base is None or not record["model"]["init_from"]:
        return None
    if imported := read_json(base / IMPORT).get("dtype"):
        return imported
    said = next((published[key] for key in _DTYPE_KEYS if published.get(key)), None)
    return said if said in ("float32", "bfloat16") else None


def _find_tokenizer(checkpoints: Path, tokenizer: str, sha256: str) -> Path | None:
    """The very file that belongs to this checkpoint.

    A run made here names it relative to itself, a trained one relative to where it was started; one that trained its
    own has it in its data folder.
    """
    own = checkpoints.parents[1] / "data" / "tokenizer.model"
    for path in (checkpoints.parent / tokenizer, Path(tokenizer)) if tokenizer else (own,):
        file = path / "tokenizer.json" if path.is_dir() else path
        if file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == sha256:
            return file
    return None


def _bar(listed: Iterable[Tensor]) -> Iterator[Tensor]:
    listed = list(listed)
    with progress(len(listed), 0, "converting", "tensor") as bar:
        for tensor in listed:
            yield tensor
            bar.advance()
