"""Weights on their way to servers: a folder of safetensors on storage that both sides see, under one path.

A publication is a folder of its own. It is whole when MARKER is in it, which is written last and says which weights
they are; our own server reads nothing without it. The label names weights for good: a version with random letters, as
a run that begins again may come to the same version with other weights. The newest two publications are kept.

Adapters are merged, as servers know none. Tensors leave the devices one at a time.
"""

from __future__ import annotations

import json
import secrets
import shutil
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mirothinker_jax.data.atomic import replacing
from mirothinker_jax.models.hf import merged, tensors
from mirothinker_jax.models.hf_config import to_hf
from mirothinker_jax.models.hf_files import write
from mirothinker_jax.models.qwen import Params
from mirothinker_jax.models.spec import ModelSpec
from mirothinker_jax.parallel.placement import to_host
from mirothinker_jax.parallel.processes import gather_texts

MARKER = "published.json"
KEPT = 2
SHARD_BYTES = 4 << 30


@dataclass(frozen=True)
class Publication:
    """Whole weights in `folder`, an absolute path."""

    folder: str
    version: int
    label: str


def read_publication(folder: Path) -> Publication | None:
    """What is published in a folder; None where its marker is not there, or is none."""
    try:
        values = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        return Publication(str(folder), int(values["version"]), str(values["label"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


class WeightsFolder:
    """Where a run publishes. One run writes here, all its processes together."""

    def __init__(self, path: Path, model: ModelSpec, dtype: str = ""):
        """`dtype` of what is written: "float32" or "bfloat16"; "": as the parameters are."""
        self.path, self._model = path.absolute(), model
        self._dtype = dtype or model.config.param_dtype
        self._listed = tensors(model.config, model.vocab_size)
        self._one = threading.Lock()  # the next one begins by clearing away what is not whole

    def publish(self, params: Params, version: int) -> Publication:
        """Writes the parameters, wherever they lie. Every process must call it; the first one writes. For a thread: it
        takes as long as the storage does.

        Raises OSError where there is no room.
        """
        with self._one:
            return self._publish(params, version)

    def _publish(self, params: Params, version: int) -> Publication:
        label = gather_texts(f"{version}-{secrets.token_hex(4)}")[0]
        folder = self.path / f"version-{label}"
        read = merged(self._model.config, lambda path, index: _slice(params, path, index))
        if jax.process_index() > 0:
            for tensor in self._listed:  # the first process cannot gather it alone
                read(tensor)
        else:
            self._write(folder, read, version, label)
        return Publication(str(folder), version, label)

    def _write(self, folder: Path, read: Any, version: int, label: str) -> None:
        scratch = folder.with_name(f".{folder.name}.partial")
        for old in self.path.glob(".version-*.partial"):  # of a run that was killed
            shutil.rmtree(old, ignore_errors=True)
        scratch.mkdir(parents=True)
        try:
            write(scratch, self._listed, self._dtype, read, SHARD_BYTES, lambda listed: listed)
            config = to_hf(self._model.config, self._model.vocab_size, {}) | {"torch_dtype": self._dtype}
            (scratch / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
            scratch.rename(folder)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        values = asdict(Publication("", version, label))
        del values["folder"]
        with replacing(folder / MARKER) as file:
            file.write_text(json.dumps(values) + "\n", encoding="utf-8")
        known = sorted(self.path.glob("version-*"), key=lambda path: path.stat().st_mtime_ns)
        for old in known[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)


def _slice(params: Params, path: tuple[str, ...], index: tuple[int, ...]) -> np.ndarray:
    leaf: Any = params
    for key in path:
        leaf = leaf[key]
    return np.asarray(to_host(leaf[index] if index else leaf))
