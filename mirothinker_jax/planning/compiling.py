"""The training step of a config, compiled for a slice that is not there, and what the compiler says of it."""

from __future__ import annotations

import dataclasses
import math
import re
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from mirothinker_jax.config import Config
from mirothinker_jax.models.spec import ModelSpec
from mirothinker_jax.objectives.of_stage import objective_of
from mirothinker_jax.parallel.mesh import make_mesh
from mirothinker_jax.parallel.sharding import HOST, batch_sharding, replicated_sharding
from mirothinker_jax.planning.chips import GIB, Topology
from mirothinker_jax.trainer.optimizer import make_optimizer
from mirothinker_jax.trainer.state import abstract_state
from mirothinker_jax.trainer.step import make_step
from mirothinker_jax.types import Batch


@dataclasses.dataclass(frozen=True)
class Compiled:
    """peak, host: bytes of a device's memory and of its host's. bound: the compiler said only that the peak is no more.
    parameters, optimizer: bytes of them in a device's memory.

    fits: whether the compiler found room; if not, peak is what it asked for and `text`, the scheduled program, empty.
    seconds: of lowering and compiling.
    """

    fits: bool
    peak: int
    bound: bool
    host: int
    parameters: int
    optimizer: int
    text: str
    seconds: float


def devices_of(topology: Topology) -> Sequence[Any]:
    """The devices of a slice that is not there."""
    options: dict[str, Any] = {}
    if topology.chip.name == "v4":
        options["chip_config_name"] = "megacore"  # its two cores are one device, as on its machines
    if topology.devices == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
    return topologies.get_topology_desc(topology.name, "tpu", **options).devices


def compile_step(config: Config, stage: str, topology: Topology) -> Compiled:
    """Of a config that divides over the slice's devices (`plan.checked`)."""
    training = getattr(config, stage).training
    mesh = make_mesh(config.mesh, devices_of(topology))
    model = ModelSpec.build(config.model, config.model.vocab_size, mesh)
    optimizer = make_optimizer(training.optimizer, training.steps or 1)  # epochs are not counted here
    state = abstract_state(model, optimizer)
    shape = (
        training.batch_size // training.microbatch_size,
        training.microbatch_size,
        training.sequence_length,
    )
    rows = batch_sharding(mesh, leading=1)
    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((*shape, *x.shape[2:]), x.dtype, sharding=rows), Batch.empty(1, 1)
    )
    count = jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated_sharding(mesh))
    begun = time.monotonic()
    parts = bytes_of(state.params), bytes_of(state.opt_state)
    step: Any = make_step(model, objective_of(config, stage), optimizer)
    with jax.set_mesh(mesh):
        lowered = step.lower(state, batch, count)
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        asked = asked_for(str(error), sum(parts))
        return Compiled(False, asked, False, 0, *parts, "", time.monotonic() - begun)
    memory = compiled.memory_analysis()
    return Compiled(
        True,
        *peak(memory, round(topology.chip.memory_gib * GIB)),
        memory.host_temp_size_in_bytes + memory.host_argument_size_in_bytes,
        *parts,
        compiled.as_text(),
        time.monotonic() - begun,
    )


def peak(memory: Any, limit: int) -> tuple[int, bool]:
    """Bytes of a device, of which `limit` can be used, from the `memory_analysis` of a compiler that found room; and
    whether they are only a bound.

    Its peak is of the arguments, those in the host's memory among them (it does not count these when it looks for
    room), and of what else is held at once by the device or by the host, whichever holds more. Where that is the host,
    what a device holds is not said, but three things that are no less: that peak, the sum of the device's buffers as
    they are laid out (about a quarter more than their peak), and what there is.
    """
    of_larger = memory.peak_memory_in_bytes - memory.host_argument_size_in_bytes
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    size = min(of_larger, held + memory.temp_size_in_bytes)
    bound = 0 < memory.host_temp_size_in_bytes >= of_larger - held
    return min(size, limit), bound or size > limit


def asked_for(said: str, held: int) -> int:
    """Bytes that a step takes, from the compiler's words when it finds no room: of all, or of what comes beside the
    bytes that are `held`. Raises RuntimeError with the words where they say something else."""
    whole = re.search(r"Used ([\d.]+)([GM]) of [\d.]+[GM] hbm", said)
    beside = re.search(r"required for HLO temporaries \(([\d.]+)([GM])\) exceeds available HBM", said)
    found = whole or beside
    if not found:
        raise RuntimeError(said)
    return round(float(found[1]) * (GIB if found[2] == "G" else 2**20)) + (0 if whole else held)


def bytes_of(tree: Any) -> int:
    """Of one device's part of arrays that know their sharding, without those in the host's memory."""
    return sum(
        jnp.dtype(leaf.dtype).itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))
        for leaf in jax.tree.leaves(tree)
        if leaf.sharding.memory_kind != HOST
    )
