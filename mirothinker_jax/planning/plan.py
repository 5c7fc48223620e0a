"""A plan: do a stage's training step and its sampling fit on a slice, and what will they cost there."""

from __future__ import annotations

import dataclasses
import math
import time
from typing import Any

from mirothinker_jax.config import MESH_AXES, Config, ConfigError
from mirothinker_jax.parallel.mesh import check_model, check_rows, sizes
from mirothinker_jax.planning import arithmetic, schedule
from mirothinker_jax.planning.chips import GIB, Topology
from mirothinker_jax.planning.sampling import Sampling, check_host, plan_sampling, samples

# Of a device's memory, what a quick plan may take and is sure to fit: of what was compiled with all effort too, the
# least effort gave steps up to 8% less, and room that then was not there.
SURE = 0.92


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is known of a stage on a slice; None: what only a compiler can say, where there is none or it found no room,
    or was not asked.

    Of the training step, but for `sampling`, which is None where the stage samples nothing, or by servers. trains:
    whether the step fits. Sizes in GiB of a device, host_gib of its share of the host's memory; seconds of a step, an
    estimate. kinds: bytes by kind, exact for parameters and optimizer where it was compiled. settings: those that say
    rows and mesh, as the command line takes them. quick: the compiler made the least effort, so that sizes are near
    those of training, and its schedule was not read. bound: a device's peak is at most peak_gib, and up to a quarter
    less.
    """

    topology: Topology
    stage: str
    mesh: dict[str, int]
    trains: bool
    peak_gib: float
    host_gib: float
    sampling: Sampling | None
    kinds: dict[str, float]
    settings: list[str]
    flops: float
    tokens: int
    balance: float
    compile_s: float | None
    wall_s: float
    schedule: schedule.Schedule | None
    quick: bool = False
    bound: bool = False

    @property
    def fits(self) -> bool:
        """Whether both do."""
        return self.trains and (self.sampling is None or self.sampling.fits)

    @property
    def sure(self) -> bool:
        """Whether it fits by the compiler's word, and would with all of its effort."""
        limit, sizes = self.topology.chip.memory_gib, [self.peak_gib]
        if self.sampling is not None:
            sizes.append(self.sampling.peak_gib)
        return self.fits and self.compiled and (not self.quick or max(sizes) < SURE * limit)

    @property
    def compiled(self) -> bool:
        """Whether a compiler said so, or a rule of thumb."""
        return self.compile_s is not None

    @property
    def step_s(self) -> float | None:
        """Estimated seconds of a step; None where none is known."""
        return None if self.schedule is None else self.schedule.seconds

    @property
    def mfu(self) -> float | None:
        """Useful flops over those of all chips in that time."""
        if self.step_s is None:
            return None
        return self.flops / (self.step_s * self.topology.devices * self.topology.chip.flops)

    def figures(self) -> dict[str, Any]:
        """For programs."""
        s, room = self.schedule, self.topology.chip.host_room_gib
        return {
            "topology": self.topology.name,
            "stage": self.stage,
            "mesh": self.mesh,
            "fits": self.fits,
            "compiled": self.compiled,
            "quick": self.quick,
            "sure": self.sure,
            "peak_gib_per_device": self.peak_gib,
            "peak_is_bound": self.bound,
            "hbm_gib_per_device": self.topology.chip.memory_gib,
            "host_gib_per_device": self.host_gib,
            "host_room_gib_per_device": room if math.isfinite(room) else None,
            "training_fits": self.trains,
            "sampling": None if self.sampling is None else self.sampling.figures(),
            "settings": self.settings,
            "gib_by_kind": {kind: size / GIB for kind, size in self.kinds.items()},
            "compile_s": self.compile_s,
            "wall_s": self.wall_s,
            "useful_flops": self.flops,
            "step_s_estimate": self.step_s,
            "tokens_per_s_estimate": None if s is None else self.tokens / s.seconds,
            "mfu_estimate": self.mfu,
            "balance": self.balance,
            "exposed_s_estimate": None if s is None else s.exposed,
            "exposed_collectives": None if s is None else s.exposed_collectives,
            "assumptions": None if s is None else self.topology.chip.assumptions,
            "transfers": None
            if s is None
            else [dataclasses.asdict(t) | {"times": n} for t, n in s.transfers],
        }


def check_slice(config: Config, stage: str, topology: Topology) -> dict[str, int]:
    """The mesh's sizes on the slice. Raises ConfigError where training would refuse the config there."""
    if stage not in config.stages:
        raise ConfigError(
            f"--stage {stage}: config.stages is {config.stages}; give one of them, or change it"
        )
    if not config.model.vocab_size:
        raise ConfigError("config.model.vocab_size is 0: plan needs the size; use a preset, or give one")
    mesh = sizes(config.mesh, topology.devices)
    check_model(mesh, config.model, config.model.vocab_size)
    check_rows(mesh, f"{stage}.training.microbatch_size", getattr(config, stage).training.microbatch_size)
    config.check_sequence_length(mesh["context"])
    if samples(config, stage):
        check_host(config, topology)
    return {axis: mesh[axis] for axis in MESH_AXES}


def make_plan(config: Config, stage: str, topology: Topology, quick: bool = False) -> Plan:
    """Compiled where there is a compiler for the chip, else by arithmetic. quick: see `Plan`; it is the caller who
    tells the compiler, before jax is imported.

    Raises ConfigError where training would refuse the config there.
    """
    begun = time.monotonic()
    training = getattr(config, stage).training
    mesh = check_slice(config, stage, topology)
    rough = arithmetic.memory(config, stage, mesh)
    kinds = rough.on_device
    flops = arithmetic.useful_flops(config.model, training.sequence_length, training.batch_size)
    balance = arithmetic.balance(training.sequence_length, mesh["context"])
    limit = topology.chip.memory_gib * GIB
    settings = [f"--config.mesh.{axis}={size}" for axis, size in mesh.items()]
    settings += [
        f"--config.{stage}.training.{key}={getattr(training, key)}"
        for key in ("batch_size", "microbatch_size")
    ]
    tokens = training.batch_size * training.sequence_length
    if not topology.compiles:
        peak, host = rough.total / GIB, rough.host / GIB
        fits = rough.total <= limit and host <= topology.chip.host_room_gib
        sampler = _sampling(config, stage, topology, kinds, rough.total, host, quick)
        return Plan(
            *(topology, stage, mesh, fits, peak, host, sampler, kinds, settings, flops, tokens, balance),
            *(None, time.monotonic() - begun, None),
        )
    from mirothinker_jax.models.head import POSITIONS
    from mirothinker_jax.planning.compiling import compile_step

    made = compile_step(config, stage, topology)
    local = (
        training.microbatch_size * training.sequence_length / (mesh["data"] * mesh["fsdp"] * mesh["expert"])
    )
    chunks = -(-local // (mesh["context"] * POSITIONS))
    program = None
    host = (made.host + arithmetic.reference(config, stage, mesh)) / GIB
    fits = made.fits and host <= topology.chip.host_room_gib
    if made.fits and not quick:
        micro_batches = training.batch_size // training.microbatch_size
        program = schedule.read(made.text, topology.chip, int(chunks), micro_batches)
    rest = made.peak - made.parameters - made.optimizer
    saved = min(rough.saved, max(0.0, rest))
    kinds = {
        "parameters": float(made.parameters),
        "optimizer": float(made.optimizer),
        "saved activations (rule of thumb)": saved,
        "temporaries": max(0.0, rest - saved),
    }
    sampler = _sampling(config, stage, topology, kinds, made.peak, host, quick)
    return Plan(
        *(topology, stage, mesh, fits, made.peak / GIB, host, sampler, kinds, settings),
        *(flops, tokens, balance, made.seconds, time.monotonic() - begun, program, quick, made.bound),
    )


def _sampling(
    config: Config,
    stage: str,
    topology: Topology,
    kinds: dict[str, float],
    step: float,
    host: float,
    quick: bool,
) -> Sampling | None:
    """Beside the whole step where GRPO samples ahead; else beside what is kept between steps. DPO samples once, before
    there is an optimizer. step, host: bytes of a device, and GiB of the host for it, of the whole step."""
    if not samples(config, stage):
        return None
    ahead = stage == "grpo" and config.grpo.streamed
    if not ahead:
        step, host = kinds["parameters"], 0.0
        if stage == "grpo":
            step += kinds["optimizer"]
            host = arithmetic.between_steps(config, stage, sizes(config.mesh, topology.devices)) / GIB
    return plan_sampling(config, stage, topology, step, host, ahead, quick)
