"""What to change where a plan does not fit, cheapest first."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from mirothinker_jax.config import Config, ConfigError
from mirothinker_jax.planning import arithmetic, chips
from mirothinker_jax.planning.chips import GIB, Chip, Topology
from mirothinker_jax.planning.plan import Plan, check_slice
from mirothinker_jax.rollout.local.layout import check_tensor

ROOM = 0.97  # of a device's memory: what the rule of thumb may promise
FFN_TOKENS = 8192  # of a device at a time, where it has many more
REMAT_COST = {
    "dots": "more is computed again",
    "attention": "all but attention is computed again",
    "offload": "attention's results wait in the host's memory",
    "offload-all": "attention's results and the blocks' inputs wait in the host's memory",
    "full": "everything is computed again",
}


@dataclasses.dataclass(frozen=True)
class Change:
    """A change of settings or slice, the GiB of a device and of its host's memory that it would take by the rule of
    thumb, and how many of these there are not."""

    what: str
    cost: str
    gib: float
    host_gib: float
    missing_gib: float

    @property
    def fits(self) -> bool:
        """Whether the step fits with the change."""
        return self.missing_gib == 0

    def figures(self) -> dict[str, Any]:
        """For programs."""
        return dataclasses.asdict(self) | {"fits": self.fits}


def advise(config: Config, plan: Plan) -> list[Change]:
    """The three cheapest changes that would make it fit; where fewer do, those that save most come after them. Then
    those for the engine, where it is sampling that has no room."""
    return ([] if plan.trains else _of_the_step(config, plan)) + list(_of_the_engine(config, plan))


def _of_the_step(config: Config, plan: Plan) -> list[Change]:
    # What the rule of thumb missed for this config, it misses for its neighbours.
    scale = plan.peak_gib * GIB / arithmetic.memory(config, plan.stage, plan.mesh).total
    found = []
    for what, cost, make, topology in _neighbours(config, plan):
        try:
            changed = make()
            mesh = check_slice(changed, plan.stage, topology)
        except ConfigError:  # training would refuse it
            continue
        rough = arithmetic.memory(changed, plan.stage, mesh)
        gib, host = scale * rough.total / GIB, rough.host / GIB
        found.append(Change(what, cost, gib, host, missing(topology.chip, gib / ROOM, host)))
    now = missing(plan.topology.chip, plan.peak_gib, plan.host_gib)
    rest = sorted((c for c in found if 0 < c.missing_gib < now), key=lambda c: c.missing_gib)
    return ([c for c in found if c.fits] + rest)[:3]


def _of_the_engine(config: Config, plan: Plan) -> Iterator[Change]:
    """Fewer pages on the host; copies over more devices, as many pages as then have room; and servers."""
    s, r = plan.sampling, config.rollout
    if s is None or s.fits:
        return
    devices = s.copies * r.tensor
    chip, waits, host = plan.topology.chip, [], s.host_gib
    if r.host_gib and host > chip.host_room_gib:
        tier = max(0, int(r.host_gib - (host - chip.host_room_gib) * devices))
        waits, host = [f"--config.rollout.host_gib={tier}"], host - (r.host_gib - tier) / devices
    if waits and s.peak_gib <= s.limit_gib:
        cost = "fewer pages wait in the host's memory"
        yield Change(waits[0], cost, s.peak_gib, host, missing(chip, s.peak_gib, host))
    total = arithmetic.pages(config)
    needed = -(-config.agent.context_tokens // r.page_tokens)
    wider = range(r.tensor, devices + 1) if s.peak_gib > s.limit_gib else ()
    for tensor in (n for n in wider if devices % n == 0):
        try:
            wide = dataclasses.replace(r, tensor=tensor)
            check_tensor(wide, config.model, config.model.vocab_size, devices, plan.topology.compiles)
        except ConfigError:
            continue
        share, copies = r.tensor / tensor, devices // tensor
        page = s.kinds["pages"] * s.copies / total * share
        rest = s.kinds["trainer"] + s.kinds["weights"] * share + s.kinds["temporaries"]
        pages = min(int((ROOM * s.limit_gib * GIB - rest) / page), total // copies)
        if pages < needed:
            continue
        settings = waits + ([f"--config.rollout.tensor={tensor}"] if tensor != r.tensor else [])
        settings += [f"--config.rollout.pages={pages * copies}"] if pages * copies != total else []
        cost = "fewer contexts at once; a turn that finds no room waits"
        if tensor != r.tensor:
            cost = f"{copies} {'copy' if copies == 1 else 'copies'} of the model on a host"
        gib = (rest + pages * page) / GIB
        yield Change(" ".join(settings), cost, gib, host, missing(chip, gib, host))
    servers = "--config.rollout.engine=remote --config.rollout.urls=http://HOST:8000"
    here = missing(chip, plan.peak_gib, plan.host_gib)
    yield Change(servers, "servers of yours sample", plan.peak_gib, plan.host_gib, here)


def missing(chip: Chip, gib: float, host_gib: float) -> float:
    """GiB that a device and its share of the host's memory have not."""
    return max(0.0, gib - chip.memory_gib) + max(0.0, host_gib - chip.host_room_gib)


def _neighbours(config: Config, plan: Plan) -> Iterator[tuple[str, str, Callable[[], Config], Topology]]:
    """Changes from the cheapest to the dearest; each is made, and checked, when it is called."""
    stage, here = plan.stage, plan.topology
    training = getattr(config, stage).training
    parts = plan.mesh["data"] * plan.mesh["fsdp"] * plan.mesh["expert"]

    def model(**fields: Any) -> Callable[[], Config]:
        return lambda: dataclasses.replace(config, model=dataclasses.replace(config.model, **fields))

    def trained(**fields: Any) -> Callable[[], Config]:
        return lambda: with_training(config, stage, **fields)

    for remat, cost in REMAT_COST.items():
        if remat != config.model.remat:
            yield f"--config.model.remat={remat}", cost, model(remat=remat), here
    offload = dataclasses.replace(training.optimizer, offload=not training.optimizer.offload)
    setting = f"--config.{stage}.training.optimizer.offload={str(offload.offload).lower()}"
    cost = f"the optimizer's averages wait in the {'host' if offload.offload else 'device'}'s memory"
    yield setting, cost, trained(optimizer=offload), here
    if offload.offload and config.model.remat != "offload-all":

        def both() -> Config:
            return with_training(model(remat="offload-all")(), stage, optimizer=offload)

        cost = "all that can wait does so in the host's memory"
        yield f"--config.model.remat=offload-all {setting}", cost, both, here
    if not config.model.ffn_tokens:
        setting = f"--config.model.ffn_tokens={FFN_TOKENS}"
        yield setting, "feed-forward blocks take so many tokens at a time", model(ffn_tokens=FFN_TOKENS), here
    if training.microbatch_size > parts:
        setting = f"--config.{stage}.training.microbatch_size={parts}"
        yield setting, "more micro-batches of a step", trained(microbatch_size=parts), here
    there = chips.slices(here.chip)
    for size in there[there.index(here.name.partition(":")[2]) + 1 :][:2]:
        larger = chips.parse(f"{here.chip.name}:{size}")
        for context in (plan.mesh["context"], plan.mesh["context"] * larger.devices // here.devices):
            rest = plan.mesh["data"] * context * plan.mesh["tensor"] * plan.mesh["expert"]
            sizes = plan.mesh | {"context": context, "fsdp": max(1, larger.devices // rest)}
            settings = " ".join(f"--config.mesh.{axis}={sizes[axis]}" for axis in ("context", "fsdp"))

            def wider(sizes: dict[str, int] = sizes) -> Config:
                return dataclasses.replace(config, mesh=dataclasses.replace(config.mesh, **sizes))

            yield f"--topology {larger.name} {settings}", "more chips", wider, larger
    if config.model.param_dtype == "float32":
        cost = "parameters keep 8 significant bits, rounded stochastically"
        yield "--config.model.param_dtype=bfloat16", cost, model(param_dtype="bfloat16"), here
    half = training.sequence_length // 2
    setting = f"--config.{stage}.training.sequence_length={half}"
    yield setting, "longer samples do not fit", trained(sequence_length=half), here


def with_training(config: Config, stage: str, **fields: Any) -> Config:
    """With other settings of a stage's training."""
    owner = getattr(config, stage)
    changed = dataclasses.replace(owner, training=dataclasses.replace(owner.training, **fields))
    return dataclasses.replace(config, **{stage: changed})
