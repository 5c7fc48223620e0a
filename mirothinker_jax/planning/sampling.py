"""What sampling takes on a slice: the steps of a host's engine, compiled, beside what the trainer keeps meanwhile.

Where there is a compiler, the steps of two and of four layers are compiled, and a straight line through them says what
all layers take. Weights and pages are exact then. Of temporaries the line may be some GiB short
(docs/notes/plans.md#sampling). Times are estimates: fusions take the compiler's cycles (planning/schedule.py), paged
attention the shares of bandwidth and peak that its authors measured on a TPU7x (arXiv 2604.15464), or, where devices
split the tokens of pages, those of the cycle simulator for ours on a v5p (docs/notes/kernels.md); and a step takes no
less than reading its weights once. Contexts count as half full. Left out: waiting for tools, steps with fewer turns,
what the host does between steps, and the gathering of weights over hosts.
"""

from __future__ import annotations

import dataclasses
import re
import time
from typing import Any

import jax

from mirothinker_jax.config import Config
from mirothinker_jax.planning import arithmetic, chips, schedule
from mirothinker_jax.planning.chips import GIB, Chip, Topology
from mirothinker_jax.rollout.local.device import Device
from mirothinker_jax.rollout.local.layout import check_tensor, key_copies, pages_of_copy, sampling_model

# Of the bandwidth while turns are sampled, and of the peak while contexts are fed, that paged attention reaches; and
# what it does where devices split the tokens of pages, on a v5p.
READING, FEEDING = 0.86, 0.73
SPLIT_READING, SPLIT_FEEDING = 0.79, 0.62
END = 0  # a token that ends a turn: which one changes nothing of the program
# Of a model, as the engine unrolls them: every layer more takes as much as the one before, and minutes to compile.
LAYERS = (2, 4)


@dataclasses.dataclass(frozen=True)
class Sampling:
    """One host's engine, and all of a slice's together. kinds: bytes of a device.

    beside: sampling and training take turns (False: what the trainer keeps is its parameters, and what it has of the
    optimizer), or happen at once (True: it keeps its whole step). turns: sampled at once, contexts: whole ones that
    the pages hold, both of the slice. host_gib: of the host's memory for each device, the trainer's and that of pages
    which wait there. decode, prefill: tokens per second of the slice, an estimate; None without a compiler.
    """

    hosts: int
    copies: int  # of the model, on a host
    beside: bool
    turns: int
    contexts: float
    limit_gib: float
    host_gib: float
    host_room_gib: float
    kinds: dict[str, float]
    decode: float | None = None
    prefill: float | None = None
    compile_s: float | None = None
    reading: float = READING  # of the bandwidth, and
    feeding: float = FEEDING  # of the peak, that these count on for attention

    @property
    def peak_gib(self) -> float:
        """Of a device. Pages and temporaries are not there yet while weights come from a trainer that waits."""
        k = self.kinds
        pages, step, moved = (k[name] for name in ("pages", "temporaries", "a weight on its way"))
        most = pages + max(step, moved) if self.beside else max(pages + step, moved)
        return (k["trainer"] + k["weights"] + most) / GIB

    @property
    def fits(self) -> bool:
        """Whether a device has room, and the host."""
        return self.peak_gib <= self.limit_gib and self.host_gib <= self.host_room_gib

    def figures(self) -> dict[str, Any]:
        """For programs."""
        return {
            "fits": self.fits,
            "compiled": self.compile_s is not None,
            "peak_gib_per_device": self.peak_gib,
            "host_gib_per_device": self.host_gib,
            "gib_by_kind": {kind: size / GIB for kind, size in self.kinds.items()},
            "beside_training": self.beside,
            "hosts": self.hosts,
            "copies_per_host": self.copies,
            "turns": self.turns,
            "whole_contexts": self.contexts,
            "decode_tokens_per_s_estimate": self.decode,
            "prefill_tokens_per_s_estimate": self.prefill,
            "compile_s": self.compile_s,
            "paged_attention_share_of_bandwidth": self.reading,
            "paged_attention_share_of_peak": self.feeding,
        }


def samples(config: Config, stage: str) -> bool:
    """Whether the stage samples on the devices that train."""
    own_pairs = stage == "dpo" and bool(config.dpo.path)
    return stage != "sft" and not own_pairs and config.rollout.engine == "local"


def check_host(config: Config, topology: Topology) -> None:
    """Raises ConfigError where the engine would refuse the settings on a host of the slice."""
    devices, r = chips.host(topology).devices, config.rollout
    check_tensor(r, config.model, config.model.vocab_size, devices, topology.compiles)
    pages_of_copy(devices // r.tensor, r, config.agent.context_tokens)


def shares(key_copies: int) -> tuple[float, float]:
    """Of the bandwidth and of the peak, that paged attention reaches."""
    return (READING, FEEDING) if key_copies == 1 else (SPLIT_READING, SPLIT_FEEDING)


def plan_sampling(
    config: Config,
    stage: str,
    topology: Topology,
    kept: float,
    host_gib: float,
    beside: bool = False,
    quick: bool = False,
) -> Sampling:
    """Of a config that divides over a host (`check_host`).

    kept, host_gib: bytes of a device, and GiB of its share of the host's memory, that the trainer's arrays take
    meanwhile; quick: no times.
    """
    m, r, host = config.model, config.rollout, chips.host(topology)
    hosts, copies = topology.devices // host.devices, host.devices // r.tensor
    each = pages_of_copy(copies, r, config.agent.context_tokens)
    rough = arithmetic.sampler(config, host.devices)
    reading, feeding = shares(key_copies(r.tensor, m))
    kinds = {
        "trainer": kept,
        "weights": rough.weights,
        "pages": rough.pages,
        "temporaries": rough.temporaries,
    }
    known = Sampling(
        hosts=hosts,
        copies=copies,
        beside=beside,
        turns=hosts * r.slots,
        contexts=hosts * copies * each * r.page_tokens / config.agent.context_tokens,
        limit_gib=topology.chip.memory_gib,
        host_gib=host_gib + r.host_gib / host.devices,
        host_room_gib=topology.chip.host_room_gib,
        kinds=kinds | {"a weight on its way": rough.moved},
        reading=reading,
        feeding=feeding,
    )
    if not topology.compiles:
        return known
    begun = time.monotonic()
    routes = stage == "grpo" and config.grpo.replay_routes
    first = _compile(config, min(m.layers, LAYERS[0]), host, topology.chip, routes, quick)
    step = first
    if m.layers > LAYERS[0]:
        more = _compile(config, LAYERS[1], host, topology.chip, routes, quick)
        step = first.towards(more, (m.layers - LAYERS[0]) / (LAYERS[1] - LAYERS[0]))
    kinds = known.kinds | {"weights": step.weights, "pages": step.pages, "temporaries": step.temporaries}
    decode = prefill = None
    if step.decode and step.feed:
        decode, prefill = (
            hosts * r.slots / step.decode,
            hosts * r.prefill_slots * r.prefill_tokens / step.feed,
        )
    return dataclasses.replace(
        known, kinds=kinds, decode=decode, prefill=prefill, compile_s=time.monotonic() - begun
    )


@dataclasses.dataclass(frozen=True)
class _Step:
    """Bytes of a device, and seconds of a token of all of a copy's turns and of a step that feeds; 0: not asked."""

    weights: float
    pages: float
    temporaries: float
    decode: float
    feed: float

    def towards(self, other: _Step, share: float) -> _Step:
        """On the straight line to another one, 0 here, 1 there."""
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return _Step(*(max(0.0, a + share * (b - a)) for a, b in pairs))


def _compile(config: Config, layers: int, host: Topology, chip: Chip, routes: bool, quick: bool) -> _Step:
    """The engine's two steps, of a model of so many layers."""
    from mirothinker_jax.planning.compiling import asked_for, devices_of, peak

    config = dataclasses.replace(config, model=dataclasses.replace(config.model, layers=layers))
    model = sampling_model(config, config.model.vocab_size, devices_of(host))
    device = Device(model, config.rollout, config.agent.context_tokens, (END,), routes)
    rough = arithmetic.sampler(config, host.devices)
    weights, pages, temporaries, texts = rough.weights, rough.pages, 0.0, []
    for lowered in (device.lower_decode(), device.lower_feed()):
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            asked = asked_for(str(error), round(weights + pages))
            temporaries = max(temporaries, asked - weights - pages)
            continue
        memory: Any = compiled.memory_analysis()
        pages = float(memory.alias_size_in_bytes)  # what is given back: as they are laid out, with the rows
        weights = memory.argument_size_in_bytes - pages
        beside = peak(memory, round(chip.memory_gib * GIB))[0] - memory.argument_size_in_bytes
        temporaries = max(temporaries, float(beside))
        texts.append(compiled.as_text())
    if quick or len(texts) < 2:
        return _Step(weights, pages, temporaries, 0.0, 0.0)
    decode = _decode_seconds(texts[0], chip, device, weights, pages)
    return _Step(weights, pages, temporaries, decode, _feed_seconds(texts[1], chip, device, weights))


def _decode_seconds(text: str, chip: Chip, device: Device, weights: float, pages: float) -> float:
    """Of a token of all of a copy's turns."""
    m, r = device.model.config, device.config
    live = min(device.rows * device.context / 2, device.pages * r.page_tokens)
    attention = (
        pages * live / (device.pages * r.page_tokens) / (chip.bandwidth * shares(device.model.key_copies)[0])
    )
    met, idle = 0.0, 0.0  # of the experts' weights, those that some turn's token is sent to, and the others
    if m.moe.experts:
        moe = m.moe
        size = 3 * m.layers * moe.experts * m.hidden * moe.expert_ffn * arithmetic.ITEM[m.compute_dtype]
        idle = size / r.tensor * (1 - moe.experts_per_token / moe.experts) ** device.rows
        met = size / r.tensor - idle
    kernels = {
        "paged_attention": attention / m.layers,
        "grouped": met / chip.bandwidth / max(1, len(re.findall(r"%grouped[\w.]* = ", text))),
    }
    program = schedule.read(text, chip, r.decode_steps, 1, kernels)
    return max(program.seconds / r.decode_steps, (weights - idle) / chip.bandwidth + attention)


def _feed_seconds(text: str, chip: Chip, device: Device, weights: float) -> float:
    """Of a step that feeds all of a copy's blocks."""
    m, r = device.model.config, device.config
    flops = 4 * device.blocks * r.prefill_tokens * device.context / 2 * m.heads * m.head_dim / r.tensor
    feeding = shares(device.model.key_copies)[1]
    program = schedule.read(text, chip, 1, 1, {"paged_attention": flops / (chip.flops * feeding)})
    return max(program.seconds, weights / chip.bandwidth)
