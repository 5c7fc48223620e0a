"""A model on this machine's devices as a policy: a run's checkpoint, or a Hugging Face folder as it is.

Each `rollout.tensor` devices have a copy of it. Left out: several hosts (each would be asked for all episodes).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mirothinker_jax.config import STAGES, Config, ConfigError
from mirothinker_jax.data.chat import Chat
from mirothinker_jax.data.hf_tokenizer import open_tokenizer, tokenizer_file
from mirothinker_jax.data.messages import Message
from mirothinker_jax.data.tokenizer import ByteCodec
from mirothinker_jax.models.hf_load import load_params
from mirothinker_jax.models.qwen import Params
from mirothinker_jax.models.spec import ModelSpec
from mirothinker_jax.pipeline.hf_folder import read_json
from mirothinker_jax.pipeline.inputs import has_checkpoint, padded_vocabulary, read_source
from mirothinker_jax.pipeline.policies import Opened, Policy
from mirothinker_jax.pipeline.prepare import turn_end_ids
from mirothinker_jax.rollout.local.device import Device
from mirothinker_jax.rollout.local.driver import LocalEngine
from mirothinker_jax.rollout.local.layout import sampling_model
from mirothinker_jax.trainer.checkpoint import check_identity, model_identity, restore_params
from mirothinker_jax.trainer.digests import NAME as DIGESTS
from mirothinker_jax.trainer.steps import newest


@dataclass(frozen=True)
class LocalModel:
    """A policy's model on this machine's devices, before its parameters are read.

    Attributes:
      identity: whose parameters they are.
      load: reads them.
      end_ids: the tokens that end a turn.
    """

    tokenizer: ByteCodec
    spec: ModelSpec
    identity: dict[str, Any]
    load: Callable[[], Params]
    end_ids: tuple[int, ...]

    def device(self, config: Config) -> Device:
        """An engine with the parameters."""
        device = Device(self.spec, config.rollout, config.agent.context_tokens, self.end_ids)
        device.load(self.load())
        return device


def open_model(where: str, config: Config) -> LocalModel:
    """The newest checkpoint of a run or a stage folder, or the model of a Hugging Face folder.

    Raises ConfigError: none there, or one that does not fit the settings.
    """
    tokenizer = open_tokenizer(config.tokenizer.path, config.tokenizer.template)
    vocab_size = padded_vocabulary(config.model.vocab_size, tokenizer)
    spec = sampling_model(config, vocab_size)
    identity, load = _find(Path(where), config, spec)
    return LocalModel(tokenizer, spec, identity, load, turn_end_ids(config, tokenizer))


def open_local(where: str, config: Config, servers: Mapping[str, str]) -> Policy:
    """`open_model` as a policy to collect episodes of. Raises ConfigError."""
    model = open_model(where, config)
    tokenizer = model.tokenizer

    @contextlib.asynccontextmanager
    async def engine() -> AsyncIterator[Opened]:
        async with LocalEngine(model.device(config)) as local:
            name = model.identity.get("checkpoint")
            yield Opened(local, model.identity, f"{where}, {name}" if name else where)

    def render(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> np.ndarray:
        return chat.render(messages, tools).tokens

    chat = Chat(tokenizer, servers, config.data.call_format)
    return Policy(
        codec=tokenizer,
        chat=chat,
        template=tokenizer.template,
        agent=config.agent,
        tools=config.tools,
        unit="tokens",
        end_ids=model.end_ids,
        engine=engine,
        render=render,
    )


def _find(path: Path, config: Config, model: ModelSpec) -> tuple[dict[str, Any], Callable[[], Params]]:
    """Whose parameters they are, and how they are read."""
    if has_checkpoint(path):
        step = newest(str(path))
        file = tokenizer_file(config.tokenizer.path)
        saved = model_identity(config.model, model.vocab_size, file)
        check_identity(step, saved, "give the model and tokenizer settings that wrote it, or none")
        stage = step.parent.parent.resolve().name
        name = f"{stage}/{step.name}" if stage in STAGES else step.name
        digest = hashlib.sha256((step / DIGESTS).read_bytes()).hexdigest()[:16]
        return {"checkpoint": name, "digest": digest}, lambda: restore_params(step, model)
    if any("stages" in read_json(folder / "config.json") for folder in (path, path.absolute().parent)):
        raise ConfigError(f"no checkpoint under {path}; train the run first, or give another one")
    source = read_source(path)
    sizes = [(file.name, file.stat().st_size) for file in sorted(path.glob("*.safetensors"))]
    said = (path / "config.json").read_bytes() + json.dumps(sizes).encode()
    return {"digest": hashlib.sha256(said).hexdigest()[:16]}, lambda: load_params(source.files, model)
