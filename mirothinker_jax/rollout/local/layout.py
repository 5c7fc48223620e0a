"""How the local engine's model lies on devices of one host.

`rollout.tensor` of them share a copy of the weights and of the keys and values, which are split by heads; where there
are more devices than heads, those with the same head split the tokens of each page (parallel/paged.py). The others are
further copies, each with pages and turns of its own. Left out: a copy over several hosts, and experts on devices of
their own (a device has its part of every expert).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

from mirothinker_jax.config import Config, ConfigError, ModelConfig, RolloutConfig
from mirothinker_jax.models.spec import ModelSpec
from mirothinker_jax.parallel.mesh import check_rows, local_mesh
from mirothinker_jax.parallel.paged import LANES, share_multiple


def sampling_model(config: Config, vocab_size: int, devices: Sequence[Any] | None = None) -> ModelSpec:
    """The model as the engine has it, on these devices (default: this process's own). Raises ConfigError where
    rollout.tensor does not divide them, or the model."""
    devices = jax.local_devices() if devices is None else devices
    on_tpu = devices[0].platform == "tpu"
    check_tensor(config.rollout, config.model, vocab_size, len(devices), on_tpu)
    # A turn's tokens are few, and rows of a batch need not divide over the devices.
    whole = dataclasses.replace(config.model, ffn_tokens=0)
    tensor = config.rollout.tensor
    return ModelSpec.build(whole, vocab_size, local_mesh(tensor, devices), key_copies(tensor, config.model))


def key_copies(tensor: int, model: ModelConfig) -> int:
    """How many of the devices that share a copy of the model hold the same key/value head."""
    return max(1, tensor // model.kv_heads)


def pages_of_copy(copies: int, config: RolloutConfig, context_tokens: int) -> int:
    """How many pages each of the copies has. Raises ConfigError where turns or pages do not divide over them, or the
    pages do not hold a context."""
    shape = {"data": copies, "fsdp": 1, "expert": 1}
    check_rows(shape, "rollout.slots", config.slots)
    if config.pages:
        check_rows(shape, "rollout.pages", config.pages)
    whole = -(-context_tokens // config.page_tokens)
    pages = (config.pages or config.slots * whole) // copies
    if pages < whole:
        raise ConfigError(
            f"config.rollout.pages gives {pages} pages of {config.page_tokens} tokens to a device, which do "
            f"not hold one context of {context_tokens}; give {whole * copies} or more"
        )
    return pages


def check_tensor(
    rollout: RolloutConfig, model: ModelConfig, vocab_size: int, devices: int, on_tpu: bool
) -> None:
    """Raises ConfigError where rollout.tensor of so many devices cannot share a copy, with those that can. A vocab_size
    of 0 is not known yet."""

    def reason(tensor: int) -> str:
        sizes = {
            "the devices of this process": devices,
            "model.heads": model.heads,
            "model.ffn": model.ffn,
            "the vocabulary": vocab_size,
        }
        if model.moe.experts:
            sizes["model.moe.expert_ffn"] = model.moe.expert_ffn
        for what, size in sizes.items():
            if size % tensor:
                return f"which does not divide {what} ({size})"
        if max(tensor, model.kv_heads) % min(tensor, model.kv_heads):
            return f"which neither divides model.kv_heads ({model.kv_heads}) nor is a multiple of it"
        copies = key_copies(tensor, model)
        if not on_tpu or copies == 1:
            least = copies
        elif model.head_dim % LANES:
            wide = f"model.head_dim ({model.head_dim}) must be a multiple of {LANES}"
            return f"by which {copies} TPUs split a page: {wide}"
        else:
            least = copies * share_multiple(model.compute_dtype)
        if rollout.page_tokens % least:
            long = f"rollout.page_tokens ({rollout.page_tokens}) must be a multiple of {least}"
            return f"by which {copies} devices split a page: {long}"
        return ""

    if why := reason(rollout.tensor):
        fine = [str(n) for n in range(1, devices + 1) if not reason(n)]
        raise ConfigError(f"config.rollout.tensor is {rollout.tensor}, {why}; give {' or '.join(fine)}")
