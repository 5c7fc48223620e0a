"""What to change where a plan does not fit, cheapest first, and the search for the fewest chips that do."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from mirothinker_jax.config import Config, ConfigError
from mirothinker_jax.parallel.mesh import sizes
from mirothinker_jax.planning import arithmetic, chips
from mirothinker_jax.planning.chips import Topology
from mirothinker_jax.planning.plan import GIB, Plan, make_plan


@dataclasses.dataclass(frozen=True)
class Change:
    """A change of settings or slice, and the GiB of a device that it would take by the rule of thumb."""

    what: str
    cost: str
    gib: float


def advise(config: Config, plan: Plan) -> list[Change]:
    """The three cheapest changes that would make it fit; where fewer do, those that save most come after them."""
    rough = arithmetic.memory(config, plan.stage, plan.mesh).total / GIB
    scale = (
        plan.peak_gib / rough
    )  # what the rule of thumb missed for this config, it misses for its neighbours

    def taken(config: Config, topology: Topology) -> float:
        return scale * arithmetic.memory(config, plan.stage, sizes(config.mesh, topology.devices)).total / GIB

    found = []
    for what, cost, changed, topology in _neighbours(config, plan):
        try:
            found.append(Change(what, cost, taken(changed, topology)))
        except ConfigError:  # does not divide over the devices
            continue
    fitting = [c for c in found if c.gib <= 0.97 * plan.topology.chip.memory_gib]
    rest = sorted((c for c in found if c not in fitting and c.gib < plan.peak_gib), key=lambda c: c.gib)
    return (fitting + rest)[:3]


def _neighbours(config: Config, plan: Plan) -> Iterator[tuple[str, str, Config, Topology]]:
    """Changes from the cheapest to the dearest."""
    stage, here = plan.stage, plan.topology
    training = getattr(config, stage).training
    parts = plan.mesh["data"] * plan.mesh["fsdp"] * plan.mesh["expert"]
    model = lambda **fields: dataclasses.replace(config, model=dataclasses.replace(config.model, **fields))  # noqa: E731
    remats = {
        "none": ("dots", "attention", "offload"),
        "dots": ("attention", "offload"),
        "attention": ("offload",),
    }
    for remat in remats.get(config.model.remat, ()):
        cost = "its results wait in the host's memory" if remat == "offload" else "more is computed again"
        yield f"--config.model.remat={remat}", cost, model(remat=remat), here
    if training.micro_rows > parts:
        yield (
            f"--config.{stage}.training.micro_rows={parts}",
            "more micro-batches of a step",
            _trained(config, stage, micro_rows=parts),
            here,
        )
    there = chips.slices(here.chip)
    larger = there[there.index(here.name.partition(":")[2]) + 1 :]
    for size in larger[:2]:
        name = f"{here.chip.name}:{size}"
        wider = dataclasses.replace(config.mesh, context=2 * plan.mesh["context"], fsdp=-1)
        yield f"--topology {name}", "more chips", config, chips.parse(name)
        yield (
            f"--topology {name} --config.mesh.context={wider.context} --config.mesh.fsdp=-1",
            "more chips for a row",
            dataclasses.replace(config, mesh=wider),
            chips.parse(name),
        )
    if config.model.param_dtype == "float32":
        yield (
            "--config.model.param_dtype=bfloat16",
            "updates below a 256th of a parameter are lost",
            model(param_dtype="bfloat16"),
            here,
        )
    half = training.row_tokens // 2
    yield (
        f"--config.{stage}.training.row_tokens={half}",
        "longer samples do not fit",
        _trained(config, stage, row_tokens=half),
        here,
    )


def _trained(config: Config, stage: str, **fields: int) -> Config:
    """With other settings of a stage's training; unchecked, because only arithmetic is done with it."""
    owner = getattr(config, stage)
    changed = dataclasses.replace(owner, training=dataclasses.replace(owner.training, **fields))
    copy = dataclasses.replace(config)
    object.__setattr__(copy, stage, changed)
    return copy


def sweep(config: Config, stage: str, kind: str) -> Iterator[Plan]:
    """Plans on ever larger slices of a kind of chip, each with the mesh that takes least by the rule of thumb; the last
    one fits, if any does. Slices that are far too small by that rule are passed over.

    A row is split over `context`; what is left of the devices takes other rows, one at a time.
    """
    chip = chips.parse(f"{kind}:{chips.slices((chips.TPUS | chips.GPUS)[kind])[0]}").chip
    training = getattr(config, stage).training
    for size in chips.slices(chip):
        topology = chips.parse(f"{kind}:{size}")
        candidates = []
        context = 1
        while context <= topology.devices:
            split = context * config.mesh.tensor * config.mesh.expert
            parts = topology.devices // config.mesh.tensor // context
            divides = topology.devices % split == 0 and training.row_tokens % (2 * context) == 0
            if divides and training.rows % parts == 0:
                mesh = dataclasses.replace(config.mesh, data=1, fsdp=-1, context=context)
                changed = _trained(dataclasses.replace(config, mesh=mesh), stage, micro_rows=parts)
                rough = arithmetic.memory(changed, stage, sizes(mesh, topology.devices)).total / GIB
                candidates.append((rough, context, changed))
            context *= 2
        if not candidates:
            continue
        rough, _, best = min(candidates, key=lambda c: c[:2])
        if rough > 1.5 * chip.memory_gib:
            continue
        plan = make_plan(best, stage, topology)
        yield plan
        if plan.fits:
            return
