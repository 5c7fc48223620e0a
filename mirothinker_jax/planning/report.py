"""A plan for people to read."""

from __future__ import annotations

import collections

from mirothinker_jax.planning.advice import Change
from mirothinker_jax.planning.chips import GIB, HOST_LINK, Chip
from mirothinker_jax.planning.plan import SURE, Plan
from mirothinker_jax.planning.sampling import Sampling


def text(plan: Plan) -> str:
    """What `plan` prints of a plan, as lines."""
    topology, limit = plan.topology, plan.topology.chip.memory_gib
    mesh = " × ".join(f"{axis} {size}" for axis, size in plan.mesh.items() if size > 1) or "one device"
    lines = [
        f"{plan.stage} on {topology.name}: {topology.devices} devices, {mesh}",
        f"  {' '.join(plan.settings)}",
    ]
    if plan.trains:
        size = f"{'at most ' if plan.bound else ''}{plan.peak_gib:.2f} of {limit:.2f} GiB"
        lines.append(f"the training step {_fits(plan, plan.peak_gib)}: {size} of a device")
    elif plan.host_gib > (room := topology.chip.host_room_gib):
        over = plan.host_gib - room
        lines.append(
            f"DOES NOT FIT: {plan.host_gib:.2f} GiB of the host's memory for each device, {over:.2f} more than "
            f"there is room for ({room:.2f}); {plan.peak_gib:.2f} of {limit:.2f} GiB of the device"
        )
    else:
        over = plan.peak_gib - limit
        lines.append(
            f"DOES NOT FIT: {plan.peak_gib:.2f} GiB of a device, {over:.2f} more than its {limit:.2f}"
        )
    lines += [f"  {size / GIB:8.2f} GiB  {kind}" for kind, size in plan.kinds.items()]
    if plan.host_gib:
        lines.append(f"  {plan.host_gib:8.2f} GiB  of the host's memory, for each device")
    if not plan.compiled:
        lines.append("by arithmetic: no compiler for this chip is at hand, so no schedule and no time")
    else:
        quick = ", with the least effort: no times, and the memory is approximate" if plan.quick else ""
        lines.append(f"compiled in {plan.compile_s:.0f} s{quick}")
    lines.append(
        f"{plan.tokens:,} tokens a step; {plan.flops / 1e15:.1f} PFLOP of use if each row is one sample (packed rows "
        f"and pairs attend to less); busiest / mean device {plan.balance:.3f}"
    )
    if plan.schedule is not None and plan.mfu is not None:
        s = plan.schedule
        lines += [
            f"a step, ESTIMATED: {s.seconds:.2f} s ({s.kernels:.2f} s in attention kernels, {s.exposed:.2f} s of "
            "transfers with nothing to hide behind)",
            f"  {plan.tokens / s.seconds:,.0f} tokens/s, {100 * plan.mfu:.1f}% MFU = useful flops / (seconds × "
            f"{topology.devices} devices × {topology.chip.flops / 1e12:.0f} TFLOP/s)",
            *_assumptions(topology.chip),
            *_transfers(plan),
        ]
    if plan.sampling is not None:
        lines += _sampling(plan, plan.sampling)
    return "\n".join(lines)


def _fits(plan: Plan, gib: float) -> str:
    if not plan.compiled:
        return "fits by a rule of thumb"
    if plan.quick and gib >= SURE * plan.topology.chip.memory_gib:
        return "PERHAPS fits (plan it without --quick to be sure)"
    return "fits"


def _sampling(plan: Plan, s: Sampling) -> list[str]:
    """What a device holds while it samples, and how fast that is."""
    over, limit = s.peak_gib - s.limit_gib, s.limit_gib
    over_host, room = s.host_gib - s.host_room_gib, s.host_room_gib
    size = f"{s.peak_gib:.2f} GiB of a device, {over:.2f} more than its {limit:.2f}"
    waits = f"{s.host_gib:.2f} GiB of the host's memory for each device, {over_host:.2f} more than there is room for"
    missing = ([size] if over > 0 else []) + ([f"{waits} ({room:.2f})"] if over_host > 0 else [])
    kept = "the trainer's whole step, beside it" if s.beside else "what the trainer keeps meanwhile"
    copies = f"{s.copies} {'copy' if s.copies == 1 else 'copies'} of the model on each host"
    lines = [
        f"sampling {_fits(plan, s.peak_gib)}: {s.peak_gib:.2f} of {limit:.2f} GiB of a device"
        if s.fits
        else f"sampling DOES NOT FIT: {'; '.join(missing)}",
        *(
            f"  {size / GIB:8.2f} GiB  {kept if kind == 'trainer' else kind}"
            for kind, size in s.kinds.items()
        ),
        *([f"  {s.host_gib:8.2f} GiB  of the host's memory, for each device"] if s.host_gib else []),
        f"  {copies}, hosts: {s.hosts}; {s.turns} turns at once, pages for {s.contexts:.1f} whole contexts",
    ]
    if s.decode is not None and s.prefill is not None:
        lines += [
            f"  ESTIMATED, of the slice, contexts half full: {s.decode:,.0f} tokens/s sampled by all turns, or "
            f"{s.prefill:,.0f} tokens/s of contexts fed",
            f"  assumed: paged attention reaches {s.reading:g} of the bandwidth when it samples, {s.feeding:g} of the "
            "peak when it feeds",
        ]
    return lines


def advice(changes: list[Change]) -> str:
    """What `plan` prints where a step does not fit: the cheapest changes, as lines."""
    lines = [
        "cheapest changes to these settings, and what a device (and its host, for it) would hold by a rule of thumb:"
    ]
    lines += [
        f"  {c.gib:8.2f} GiB ({c.host_gib:.2f}), {'fits' if c.fits else 'not enough'}:  {c.what}  ({c.cost})"
        for c in changes
    ]
    return "\n".join(lines)


def _assumptions(chip: Chip) -> list[str]:
    return [
        f"  assumed: fusions take the compiler's cycles, at {chip.hertz / 1e9:g} GHz; gathers, scatters, sorts none;",
        f"    of the peak, attention kernels reach {chip.forward:g} forward and {chip.backward:g} backward, experts' "
        f"products {chip.inner:g} and {chip.outer:g};",
        f"    {chip.link / 1e9:g} GB/s each way to a neighbour, {HOST_LINK / 1e9:g} GB/s to the host; nothing else on "
        "the links, and no time between steps",
    ]


def _transfers(plan: Plan) -> list[str]:
    """By kind: how many, how long, and how much of that is exposed."""
    assert plan.schedule is not None
    kinds: dict[str, list[float]] = collections.defaultdict(lambda: [0.0, 0.0, 0.0, 0.0])
    for transfer, times in plan.schedule.transfers:
        sums = kinds[transfer.kind]
        for i, value in enumerate((1.0, transfer.seconds, transfer.exposed, float(transfer.kernels > 0))):
            sums[i] += value * times
    lines = ["  transfer              times   seconds   exposed   beside a kernel"]
    for kind, (times, seconds, exposed, beside) in sorted(kinds.items()):
        lines.append(f"  {kind:20} {times:6.0f} {seconds:9.3f} {exposed:9.3f}   {beside:.0f}")
    return lines
