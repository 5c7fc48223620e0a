"""A plan: does a stage's training step fit on a slice, and what will it cost there."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from mirothinker_jax.config import MESH_AXES, Config
from mirothinker_jax.parallel.mesh import sizes
from mirothinker_jax.planning import arithmetic, schedule
from mirothinker_jax.planning.chips import Topology

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is known of a stage on a slice; None: what only a compiler can say, where there is none or it found no room.

    Sizes in GiB of a device; seconds of a step, an estimate; exposed: seconds of it in which a transfer has nothing to
    hide behind. kinds: bytes by kind, exact for parameters and optimizer where it was compiled.
    """

    topology: Topology
    stage: str
    mesh: dict[str, int]
    fits: bool
    peak_gib: float
    host_gib: float
    kinds: dict[str, float]
    flops: float
    tokens: int
    balance: float
    compile_s: float | None
    wall_s: float
    schedule: schedule.Schedule | None

    @property
    def step_s(self) -> float | None:
        return None if self.schedule is None else self.schedule.seconds

    @property
    def mfu(self) -> float | None:
        """Useful flops over those of all chips in that time."""
        if self.step_s is None:
            return None
        chips = self.topology.devices / self.topology.chip.devices
        return self.flops / (self.step_s * chips * self.topology.chip.flops)

    def figures(self) -> dict[str, Any]:
        """For programs."""
        s = self.schedule
        return {
            "topology": self.topology.name,
            "stage": self.stage,
            "mesh": self.mesh,
            "fits": self.fits,
            "compiled": self.compile_s is not None,
            "peak_gib_per_device": self.peak_gib,
            "hbm_gib_per_device": self.topology.chip.memory_gib,
            "host_gib_per_device": self.host_gib,
            "gib_by_kind": {kind: size / GIB for kind, size in self.kinds.items()},
            "compile_s": self.compile_s,
            "wall_s": self.wall_s,
            "useful_flops": self.flops,
            "step_s_estimate": self.step_s,
            "tokens_per_s_estimate": None if s is None else self.tokens / s.seconds,
            "mfu_estimate": self.mfu,
            "balance": self.balance,
            "exposed_s_estimate": None if s is None else s.exposed,
            "exposed_collectives": None if s is None else sum(t.exposed > 1e-5 for t, _ in s.transfers),
            "transfers": None
            if s is None
            else [dataclasses.asdict(t) | {"times": n} for t, n in s.transfers],
        }


def make_plan(config: Config, stage: str, topology: Topology) -> Plan:
    """Compiled where there is a compiler for the chip, else by arithmetic.

    Raises ConfigError where the config does not divide over the slice's devices.
    """
    begun = time.monotonic()
    training = getattr(config, stage).training
    mesh = {axis: sizes(config.mesh, topology.devices)[axis] for axis in MESH_AXES}
    rough = arithmetic.memory(config, stage, mesh)
    kinds = dataclasses.asdict(rough)
    flops = arithmetic.useful_flops(config.model, training.row_tokens, training.rows)
    balance = arithmetic.balance(training.row_tokens, mesh["context"])
    limit = topology.chip.memory_gib * GIB
    common = (flops, training.rows * training.row_tokens, balance)
    if not topology.compiles:
        fits, peak = rough.total <= limit, rough.total / GIB
        return Plan(
            topology, stage, mesh, fits, peak, 0.0, kinds, *common, None, time.monotonic() - begun, None
        )
    from mirothinker_jax.models.head import POSITIONS
    from mirothinker_jax.planning.compiling import compile_step

    made = compile_step(config, stage, topology)
    local = training.micro_rows * training.row_tokens / (mesh["data"] * mesh["fsdp"] * mesh["expert"])
    chunks = -(-local // (mesh["context"] * POSITIONS))
    program = None
    if made.fits:
        micro_batches = training.rows // training.micro_rows
        program = schedule.read(made.text, topology.chip, int(chunks), micro_batches)
    rest = made.peak - made.parameters - made.optimizer
    saved = min(rough.saved, max(0.0, rest))
    kinds = {
        "parameters": float(made.parameters),
        "optimizer": float(made.optimizer),
        "saved activations (rule of thumb)": saved,
        "temporaries": max(0.0, rest - saved),
    }
    return Plan(
        *(topology, stage, mesh, made.fits, made.peak / GIB, made.host / GIB, kinds, *common),
        *(made.seconds, time.monotonic() - begun, program),
    )
