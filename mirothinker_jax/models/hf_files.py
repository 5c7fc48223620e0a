"""Folders of safetensors: checked against a model without loading them, read and written tensor by tensor. Opening one
imports no jax.

The safetensors library checks each file that is read. The bytes are read and written here: the library maps files
into memory, where every page that was ever touched counts, and writes only what is in memory all at once. The format
is eight bytes of header length, a JSON header and the bytes.

Left out: other dtypes than float32 and bfloat16, and PyTorch's pickled checkpoints (*.bin). Not safe: a file that
changes while it is read.
"""

from __future__ import annotations

import dataclasses
import json
import math
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes  # noqa: F401  numpy knows bfloat16 once this is imported
import numpy as np
import safetensors

from mirothinker_jax.config import ConfigError

if TYPE_CHECKING:  # it imports jax, without which a folder can be opened
    from mirothinker_jax.models.hf import Tensor

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
BLOCK_BYTES = 64 << 20  # of what is compared, or turned into a file's bytes, at a time
MOST_LISTED = 8  # of the tensors that do not fit
_DTYPES = {"F32": "float32", "BF16": "bfloat16"}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


@dataclasses.dataclass(frozen=True)
class _Stored:
    """Where a tensor lies."""

    file: Path
    offset: int
    size: int  # in bytes
    dtype: str  # as the format spells it
    shape: tuple[int, ...]


class Folder:
    """The tensors of a Hugging Face folder. Raises ConfigError where a file of it is missing or broken."""

    def __init__(self, path: Path):
        self.path = path
        single, index = (path / SINGLE).is_file(), (path / INDEX).is_file()
        if single and index:
            raise ConfigError(f"{path} has both {SINGLE} and {INDEX}; remove the one that is not the model's")
        if not single and not index:
            if any(path.glob("*.safetensors")):
                way_out = (
                    "its *.safetensors are parts of which the index says what they hold: download that too"
                )
            elif any(path.glob("*.bin")):
                way_out = (
                    "its *.bin are pickles, not read here: load it with transformers and save_pretrained() it"
                )
            else:
                way_out = "give a Hugging Face model's folder"
            raise ConfigError(f"{path}: neither {INDEX} nor {SINGLE} is there; {way_out}")
        where = _index(path / INDEX) if index else None
        files = [SINGLE] if where is None else sorted(set(where.values()))
        missing = [file for file in files if not (path / file).is_file()]
        if missing:
            raise ConfigError(f"{path}: {INDEX} names {', '.join(missing)}, not there; download again")
        headers = {file: _read_header(path / file) for file in files}
        where = dict.fromkeys(headers[SINGLE], SINGLE) if where is None else where
        self.names = list(where)
        self._stored = {name: headers[file][name] for name, file in where.items() if name in headers[file]}

    def read(self, name: str) -> np.ndarray:
        """A whole tensor."""
        s = self._stored[name]
        return np.fromfile(s.file, _DTYPES[s.dtype], math.prod(s.shape), offset=s.offset).reshape(s.shape)

    def check(self, tensors: Sequence[Tensor]) -> str:
        """The dtype that holds every one of these tensors: "float32" or "bfloat16".

        Raises ConfigError, listing what is wrong, unless the folder holds exactly these, in their shapes. A tied
        model's file may also have the head, if it is the embedding.
        """
        wanted = {t.name: t for t in tensors}
        embedding, head = "model.embed_tokens.weight", "lm_head.weight"
        copied = head not in wanted and self._same(embedding, head)
        wrong = [f"unknown {name}" for name in self.names if name not in wanted and name != head]
        if head in self.names and head not in wanted and not copied:
            wrong.append(f"{head} differs from {embedding}, to which config.json ties it")
        for name, tensor in wanted.items():
            found = self._stored.get(name)
            if found is None:
                untied = " (config.json does not tie it to the embedding)" if name == head else ""
                wrong.append(f"missing {name}" + (f" ({INDEX} is wrong)" if name in self.names else untied))
                continue
            if found.shape != tensor.shape:
                wrong.append(f"{name} is {found.shape}, not {tensor.shape}")
            if found.dtype not in _DTYPES:
                wrong.append(f"{name} is {found.dtype}, not F32 or BF16")
        if wrong:
            listed = "; ".join([*wrong[:MOST_LISTED], *([] if len(wrong) <= MOST_LISTED else ["and so on"])])
            if any(s.dtype not in _DTYPES for s in self._stored.values()):
                listed += "; load it with transformers and save_pretrained() it in bfloat16"
            raise ConfigError(f"{self.path}: {len(wrong)} tensors do not fit config.json: {listed}")
        kinds = {self._stored[name].dtype for name in wanted}
        return "bfloat16" if kinds == {"BF16"} else "float32"

    def _same(self, name: str, other: str) -> bool:
        """Whether both are there and equal, bit by bit (NaNs too)."""
        a, b = self._stored.get(name), self._stored.get(other)
        if a is None or b is None or (a.dtype, a.shape) != (b.dtype, b.shape):
            return False
        with a.file.open("rb") as first, b.file.open("rb") as second:
            first.seek(a.offset)
            second.seek(b.offset)
            sizes = (min(BLOCK_BYTES, a.size - start) for start in range(0, a.size, BLOCK_BYTES))
            return all(first.read(size) == second.read(size) for size in sizes)


def _index(path: Path) -> dict[str, str]:
    """Tensor → file."""
    try:
        where = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        if all(Path(file).name == file for file in where.values()):
            return where
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise ConfigError(f"{path}: no weight_map of files beside it; download the file again")


def _read_header(path: Path) -> dict[str, _Stored]:
    try:
        with safetensors.safe_open(path, "np"):
            pass  # the header is whole, its offsets have no holes, and the file is as long as they say
    except (safetensors.SafetensorError, OSError) as error:
        raise ConfigError(f"{path}: {error}; download the file again") from None
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    found = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        found[name] = _Stored(path, 8 + length + begin, end - begin, entry["dtype"], tuple(entry["shape"]))
    return found


def write(
    folder: Path,
    tensors: Sequence[Tensor],
    dtype: str,
    read: Callable[[Tensor], np.ndarray],
    shard_bytes: int,
    wait: Callable[[Iterable[Tensor]], Iterable[Tensor]],
) -> None:
    """Writes a checkpoint of these tensors as `read` gives them, in files of about `shard_bytes`.

    One tensor is in memory at a time. `wait` wraps the sequence of tensors: a progress bar. The index is written
    last; the caller renames the folder, so that a half-written one never shows.
    """
    item = np.dtype(dtype).itemsize
    files: list[list[Tensor]] = [[]]
    size = 0
    for tensor in tensors:
        if files[-1] and size + math.prod(tensor.shape) * item > shard_bytes:
            files.append([])
            size = 0
        files[-1].append(tensor)
        size += math.prod(tensor.shape) * item
    names = (
        [SINGLE]
        if len(files) == 1
        else [f"model-{n + 1:05d}-of-{len(files):05d}.safetensors" for n in range(len(files))]
    )
    stream = iter(wait(tensors))
    for name, held in zip(names, files, strict=True):
        with (folder / name).open("wb") as file:
            file.write(_header(held, dtype))
            for _ in held:
                tensor = next(stream)
                value = tensor.theirs(read(tensor))
                assert value.shape == tensor.shape, (tensor, value.shape)
                for block in _blocks(value):
                    file.write(np.ascontiguousarray(block.astype(dtype, copy=False)).view(np.uint8).data)
    assert next(stream, None) is None  # and the bar is at its end
    if len(files) > 1:
        where = {t.name: name for name, held in zip(names, files, strict=True) for t in held}
        total = sum(math.prod(t.shape) for t in tensors) * item
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _blocks(value: np.ndarray) -> Iterator[np.ndarray]:
    """Rows of it, so that no second copy of the whole is made."""
    rows = max(1, BLOCK_BYTES * len(value) // value.nbytes)
    return (value[start : start + rows] for start in range(0, len(value), rows))


def _header(tensors: Sequence[Tensor], dtype: str) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers refuses a file without it
    end = 0
    for tensor in tensors:
        begin, end = end, end + math.prod(tensor.shape) * np.dtype(dtype).itemsize
        header[tensor.name] = {
            "dtype": _NAMES[dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data is aligned, as the format asks
    return struct.pack("<Q", len(text)) + text
