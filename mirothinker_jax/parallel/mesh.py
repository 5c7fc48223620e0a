"""The device mesh: axes data, fsdp, context, tensor, expert, always all five, size 1 where unused.

All axes are in Auto mode: the sharding table (sharding.py) constrains activations, XLA fills in the rest,
and the attention and head kernels take over by shard_map. One mode for the whole project.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from mirothinker_jax.config import MESH_AXES, ConfigError, MeshConfig, ModelConfig

BATCH_AXES = ("data", "fsdp", "expert")  # the axes over which rows of a batch are spread
TOKEN_AXES = (*BATCH_AXES, "context")  # the axes over which tokens are spread


def sizes(config: MeshConfig, devices: int) -> dict[str, int]:
    """Axis sizes on this many devices, the −1 axis filled in.

    Raises ConfigError if the product does not match.
    """
    given = dataclasses.asdict(config)
    known = math.prod(s for s in given.values() if s != -1)
    free = [axis for axis, s in given.items() if s == -1]
    if devices % known or (not free and known != devices):
        spelled = " × ".join(f"{a}={s}" for a, s in given.items() if s != 1)
        raise ConfigError(
            f"config.mesh: {spelled or 'all axes 1'} does not fit {devices} device(s); "
            "change a size, or set one axis to -1 (the rest)"
        )
    return {axis: devices // known if s == -1 else s for axis, s in given.items()}


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh over `devices` (default: all of them, of all processes)."""
    devices = jax.devices() if devices is None else devices
    named = sizes(config, len(devices))
    shape, types = tuple(named[a] for a in MESH_AXES), (AxisType.Auto,) * len(MESH_AXES)
    try:
        return jax.make_mesh(shape, MESH_AXES, devices=devices, axis_types=types)
    except NotImplementedError:  # an axis is no product of axes of the slice's torus: 2 on a 4x4x4
        split = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
        return Mesh(split, MESH_AXES, axis_types=types)


def local_mesh(tensor: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """`devices` (default: this process's own), `tensor` of them to a copy and the copies along `data`: where a rollout
    engine runs without the other processes."""
    devices = jax.local_devices() if devices is None else devices
    return make_mesh(MeshConfig(data=-1, fsdp=1, tensor=tensor), devices)


def check_model(mesh: Mapping[str, int], model: ModelConfig, vocab_size: int) -> None:
    """Raises ConfigError where a model dimension does not divide over axes of these sizes."""
    tensor, context, split = mesh["tensor"], mesh["context"], mesh["fsdp"] * mesh["context"]
    for key, size, axis, parts in (
        ("model.heads", model.heads, "tensor", tensor),
        ("model.kv_heads", model.kv_heads, "tensor", tensor),
        ("model.ffn", model.ffn, "tensor", tensor),
        ("vocabulary", vocab_size, "tensor", tensor),
        ("model.hidden", model.hidden, "fsdp × context", split),
    ):
        if size % parts:
            raise ConfigError(f"config.mesh.{axis} is {parts}, which does not divide {key} ({size})")
    exchange, heads, kv = max(1, model.context.ulysses), model.heads // tensor, model.kv_heads // tensor
    if context > 1 and (context % exchange or heads % exchange or max(exchange, kv) % min(exchange, kv)):
        raise ConfigError(
            f"config.model.context.ulysses is {exchange}; it must divide config.mesh.context ({context}) and a "
            f"device's {heads} heads, and divide its {kv} key/value heads or be a multiple of them"
        )


def check_rows(mesh: Mapping[str, int], key: str, rows: int) -> None:
    """Raises ConfigError where `rows` does not divide over the batch axes."""
    parts = math.prod(mesh[a] for a in BATCH_AXES)
    if rows % parts:
        raise ConfigError(
            f"config.{key} is {rows}, not a multiple of mesh data × fsdp × expert = {parts}; "
            f"use {math.ceil(rows / parts) * parts}"
        )
