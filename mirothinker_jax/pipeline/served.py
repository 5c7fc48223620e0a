"""The policy of a run or of a Hugging Face folder, with an engine on this process's devices, ready to be served."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mirothinker_jax.config import Config, ConfigError, ModelConfig, build, check
from mirothinker_jax.data.hf_tokenizer import open_tokenizer
from mirothinker_jax.data.tokenizer import TextCodec
from mirothinker_jax.models.hf_files import Folder
from mirothinker_jax.models.hf_load import load_params
from mirothinker_jax.models.qwen import Params
from mirothinker_jax.models.spec import ModelSpec
from mirothinker_jax.parallel.mesh import local_mesh
from mirothinker_jax.pipeline.convert_hf import find_tokenizer
from mirothinker_jax.pipeline.hf_folder import eos_ids
from mirothinker_jax.pipeline.inputs import has_checkpoint, padded_vocabulary, read_source
from mirothinker_jax.rollout.local.device import Device
from mirothinker_jax.rollout.local.driver import LocalEngine
from mirothinker_jax.serving.policy import Served
from mirothinker_jax.tools.build import SERVERS
from mirothinker_jax.trainer.checkpoint import read_item, restore_params
from mirothinker_jax.trainer.steps import newest


@dataclass(frozen=True)
class PolicyFiles:
    """A policy on disk. `load` gives its parameters on a mesh; `end_ids` end a turn."""

    name: str
    model: ModelConfig
    vocab_size: int
    codec: TextCodec
    end_ids: tuple[int, ...]
    load: Callable[[ModelSpec], Params]


def open_policy_files(path: Path, template: str) -> PolicyFiles:
    """The newest checkpoint of a run (or of a stage folder), or a Hugging Face folder. `template`: tokenizer.template.

    Raises ConfigError for what is neither, or not whole.
    """
    if not has_checkpoint(path):
        source = read_source(path)
        codec = open_tokenizer(path / "tokenizer.json", template)
        model = dataclasses.replace(source.model, param_dtype=source.files.dtype)
        load = lambda spec: load_params(source.files, spec)  # noqa: E731
        return PolicyFiles(_name(path), model, model.vocab_size, codec, eos_ids(path, codec), load)
    step = newest(str(path))
    identity, record = read_item(step, "identity"), read_item(step, "config")
    model = build(ModelConfig, record["model"])
    file = find_tokenizer(step.parent, record["tokenizer"]["path"], identity["tokenizer_sha256"])
    if file is None:
        raise ConfigError(
            f"{path}: its tokenizer {record['tokenizer']['path'] or 'data/tokenizer.model'} is gone, or another one by "
            "now; put it back"
        )
    codec = open_tokenizer(file, template)
    end_ids = eos_ids(file.parent, codec) if file.suffix == ".json" else (codec.im_end_id,)
    load = lambda spec: restore_params(step, spec)  # noqa: E731
    return PolicyFiles(_name(path), model, identity["vocab_size"], codec, end_ids, load)


def recorded_settings(path: Path) -> dict[str, Any] | None:
    """All settings of the run whose checkpoint is at `path`; None where that was not trained here."""
    if not has_checkpoint(path):
        return None
    record = read_item(newest(str(path)), "config")
    return record if "stages" in record else None


@contextlib.asynccontextmanager
async def open_served(
    files: PolicyFiles, config: Config, name: str = "", weights_dir: Path | None = None
) -> AsyncIterator[Served]:
    """The policy with an engine, on this event loop. It takes new weights from below `weights_dir`, where that is
    given.

    Raises ConfigError where it does not fit the devices or the settings.
    """
    padded_vocabulary(files.vocab_size, files.codec)
    check(
        weights_dir is None or not files.model.lora.rank,
        "--weights-dir: new weights have no adapters, and this model has; merge them with "
        "mirothinker_jax.convert --to hf",
    )
    # A turn's tokens are few, and rows of a batch need not divide over the devices.
    whole = dataclasses.replace(files.model, ffn_tokens=0)
    spec = ModelSpec.build(whole, files.vocab_size, local_mesh())
    device = Device(spec, config.rollout, config.agent.context_tokens, files.end_ids)
    device.load(files.load(spec))
    async with LocalEngine(device) as engine:

        async def reload(folder: Path, version: int) -> None:
            params = await asyncio.to_thread(lambda: load_params(Folder(folder), spec))
            await engine.publish(params, version)

        yield Served(
            name=name or files.name,
            engine=engine,
            codec=files.codec,
            servers=SERVERS,
            call_format=config.data.call_format,
            end_ids=frozenset(files.end_ids),
            context_tokens=config.agent.context_tokens,
            vocab_size=files.vocab_size,
            reload=reload,
            weights_dir=weights_dir,
        )


def _name(path: Path) -> str:
    return path.resolve().name
