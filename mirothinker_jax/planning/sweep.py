"""The search for the fewest chips that a stage fits on."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from mirothinker_jax.config import Config, ConfigError
from mirothinker_jax.planning import arithmetic, chips
from mirothinker_jax.planning.advice import with_training
from mirothinker_jax.planning.chips import GIB, Chip
from mirothinker_jax.planning.plan import Plan, check_slice, make_plan
from mirothinker_jax.planning.sampling import samples

# Of a device's memory, by the rule of thumb, which leaves out much of what a step computes with: of the steps in
# docs/notes/plans.md, which keep little or nothing of a layer on the device, the compiler's peak is 0.98 to 2.2 times
# what it says. Where it says so little, compiling is worth its minutes; where it says so much of the leanest mesh of a
# slice, none has room.
LIKELY, HOPELESS = 0.85, 1.2


def sweep(config: Config, stage: str, chip: Chip, quick: bool = False) -> Iterator[tuple[Config, Plan]]:
    """Configs and their plans on ever larger slices; the last one fits, if any does. Slices that are far too small by
    the rule of thumb are passed over, and so are meshes that are likely to be, but for the leanest of a slice.

    Of the config's mesh, `tensor` and `expert` stay. A row is split over `context`, over as few devices as fit, since
    each then has more tokens to compute with the weights that it gathers; what is left of the devices takes other rows,
    one at a time (microbatch_size).

    Raises ConfigError where no slice can be divided like that.
    """
    refused = ConfigError("")
    tried, engine = False, None
    for size in chips.slices(chip):
        topology = chips.parse(f"{chip.name}:{size}")
        candidates, here = [], None
        for context in (1 << n for n in range(topology.devices.bit_length())):
            parts = topology.devices // (context * max(1, config.mesh.tensor))
            try:
                mesh = dataclasses.replace(config.mesh, data=1, fsdp=-1, context=context)
                changed = with_training(
                    dataclasses.replace(config, mesh=mesh), stage, microbatch_size=max(1, parts)
                )
                rough = arithmetic.memory(changed, stage, check_slice(changed, stage, topology))
            except ConfigError as error:
                here = here or error
                continue
            if (gib := _engine_gib(changed, stage, topology)) > chip.memory_gib:
                engine = ConfigError(
                    f"sampling takes {gib:.1f} GiB of each device of {topology.name}, which has {chip.memory_gib:.1f}; "
                    "give fewer rollout.pages, a larger rollout.tensor, or servers (rollout.engine=remote)"
                )
                continue
            if (gib := _tier_gib(changed, stage, topology)) > chip.host_room_gib:
                engine = ConfigError(
                    f"rollout.host_gib takes {gib:.1f} GiB of the host's memory for each device of {topology.name}, "
                    f"which has room for {chip.host_room_gib:.1f}; give less"
                )
                continue
            tried = True
            if rough.host / GIB <= chip.host_room_gib:  # of the host the rule is exact
                candidates.append((rough.total / GIB, changed))
        refused = here or refused  # of a slice, that of the mesh which splits a row the least
        leanest = min((rough for rough, _ in candidates), default=0.0)
        for rough, changed in candidates:
            if rough > (HOPELESS if rough == leanest else LIKELY) * chip.memory_gib:
                continue
            plan = make_plan(changed, stage, topology, quick)
            yield changed, plan
            if plan.fits:
                return
    if not tried and engine is not None:
        raise engine
    if not tried:
        raise ConfigError(
            f"no slice of {chip.name} can be divided for this config; the last refusal: {refused}"
        )


def _engine_gib(config: Config, stage: str, topology: chips.Topology) -> float:
    """Of a device of a host, whatever the slice: weights and pages of the engine alone."""
    if not samples(config, stage):
        return 0.0
    engine = arithmetic.sampler(config, chips.host(topology).devices)
    return (engine.weights + engine.pages) / GIB


def _tier_gib(config: Config, stage: str, topology: chips.Topology) -> float:
    """Of the host's memory for each device: pages that wait there."""
    return config.rollout.host_gib / chips.host(topology).devices if samples(config, stage) else 0.0
