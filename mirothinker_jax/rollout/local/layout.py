"""How the local engine's model lies on devices of one host.

`rollout.tensor` of them share a copy of the weights and of the keys and values, which are split by heads. The others
are further copies, each with pages and turns of its own. Left out: a copy over several hosts, and experts on devices of
their own (a device has its part of every expert).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax

from mirothinker_jax.config import Config, ConfigError, ModelConfig, RolloutConfig
from mirothinker_jax.models.spec import ModelSpec
from mirothinker_jax.parallel.mesh import check_rows, local_mesh


def sampling_model(config: Config, vocab_size: int, devices: Sequence[Any] | None = None) -> ModelSpec:
    """The model as the engine has it, on these devices (default: this process's own). Raises ConfigError where
    rollout.tensor does not divide them, or the model."""
    devices = jax.local_devices() if devices is None else devices
    check_tensor(config.rollout.tensor, config.model, vocab_size, len(devices))
    # A turn's tokens are few, and rows of a batch need not divide over the devices.
    whole = dataclasses.replace(config.model, ffn_tokens=0)
    return ModelSpec.build(whole, vocab_size, local_mesh(config.rollout.tensor, devices))


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


def check_tensor(tensor: int, model: ModelConfig, vocab_size: int, devices: int) -> None:
    """Raises ConfigError where so many devices cannot share a copy. A vocab_size of 0 is not known yet."""
    sizes = {
        "the devices of this process": devices,
        "model.heads": model.heads,
        "model.kv_heads": model.kv_heads,
        "model.ffn": model.ffn,
        "the vocabulary": vocab_size,
    }
    if model.moe.experts:
        sizes["model.moe.expert_ffn"] = model.moe.expert_ffn
    for what, size in sizes.items():
        if size % tensor:
            raise ConfigError(
                f"config.rollout.tensor is {tensor}, which does not divide {what} ({size}); give a divisor of "
                f"{math.gcd(*sizes.values())}"
            )
