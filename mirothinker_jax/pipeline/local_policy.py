"""A model on this machine's devices as a policy: a run's checkpoint, or a Hugging Face folder as it is.

The parameters lie whole on each device. Left out: several hosts (each would be asked for all episodes).
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mirothinker_jax.config import STAGES, Config, ConfigError
from mirothinker_jax.data.chat import Chat
from mirothinker_jax.data.hf_tokenizer import open_tokenizer, tokenizer_file
from mirothinker_jax.data.messages import Message
from mirothinker_jax.models.hf import shapes, tensors
from mirothinker_jax.models.qwen import Params
from mirothinker_jax.models.spec import ModelSpec
from mirothinker_jax.parallel.mesh import local_mesh
from mirothinker_jax.pipeline.hf_folder import read_json
from mirothinker_jax.pipeline.inputs import Source, has_checkpoint, padded_vocabulary, read_source
from mirothinker_jax.pipeline.policies import Opened, Policy
from mirothinker_jax.pipeline.prepare import turn_end_ids
from mirothinker_jax.rollout.local.device import Device
from mirothinker_jax.rollout.local.driver import LocalEngine
from mirothinker_jax.trainer.checkpoint import check_identity, model_identity, restore_params
from mirothinker_jax.trainer.digests import NAME as DIGESTS
from mirothinker_jax.trainer.steps import newest


def open_local(where: str, config: Config, servers: Mapping[str, str]) -> Policy:
    """The newest checkpoint of a run or a stage folder, or the model of a Hugging Face folder.

    Raises ConfigError: none there, or one that does not fit the settings.
    """
    tokenizer = open_tokenizer(config.tokenizer.path, config.tokenizer.template)
    vocab_size = padded_vocabulary(config.model.vocab_size, tokenizer)
    # A turn's tokens are few, and rows of a batch need not divide over the devices.
    model = ModelSpec.build(dataclasses.replace(config.model, ffn_tokens=0), vocab_size, local_mesh())
    identity, load = _find(Path(where), config, model)
    end_ids = turn_end_ids(config, tokenizer)

    @contextlib.asynccontextmanager
    async def engine() -> AsyncIterator[Opened]:
        device = Device(model, config.rollout, config.agent.context_tokens, end_ids)
        device.load(load())
        async with LocalEngine(device) as local:
            name = identity.get("checkpoint")
            yield Opened(local, identity, f"{where}, {name}" if name else where)

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
        end_ids=end_ids,
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
    return {"digest": hashlib.sha256(said).hexdigest()[:16]}, lambda: read_params(source, model)


def read_params(source: Source, model: ModelSpec) -> Params:
    """The parameters of a Hugging Face folder, numpy in the model's dtype, on this host.

    Raises ConfigError where its tensors are not those that its config.json tells of.
    """
    c, listed = model.config, tensors(model.config, model.vocab_size)
    source.files.check(listed)
    dtype = np.dtype(c.param_dtype)
    leaves = {path: np.empty(shape, dtype) for path, shape in shapes(c, model.vocab_size).items()}
    for tensor in listed:
        leaves[tensor.path][tensor.index] = tensor.ours(source.files.read(tensor.name)).astype(
            dtype, copy=False
        )
    params: dict[str, Any] = {}
    for path, value in leaves.items():
        owner = params
        for key in path[:-1]:
            owner = owner.setdefault(key, {})
        owner[path[-1]] = value
    return params
