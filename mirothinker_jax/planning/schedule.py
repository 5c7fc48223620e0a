"""Reads a compiled TPU program's schedule: how long it takes, and which transfers have something to hide behind.

An estimate, and no measurement: fusions take the cycles that the compiler says, gathers, scatters and sorts nothing,
since it does not say; our kernels take their flops at the share of the peak that the cycle simulator gave them
(docs/notes/kernels.md); a transfer takes its bytes at the speed of the links that it may use, and runs beside what is
scheduled between its start and its end; those to the host wait for each other, so do those from there, and permutes
with the same pairs of devices. Loops count as often as their condition says. Other contention for memory and links is
left out, also where a permute's pairs are no neighbours; so are the host and the network between slices.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

from mirothinker_jax.planning.chips import HOST_LINK, Chip

_COMPUTATION = re.compile(r"\n(?=(?:ENTRY )?%[\w.\-]+ \()")
_INSTRUCTION = re.compile(r"\n  (?=(?:ROOT )?%[\w.\-]+ = )")
_HEAD = re.compile(r"(?:ROOT )?%([\w.\-]+) = (.*?)\s([a-z][a-z0-9\-]*)\(([^)]*)\)", re.DOTALL)
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_FLOPS = re.compile(r'"cost_estimate":\{"flops":"(\d+)"')
_ARRAY = re.compile(r"(pred|s8|u8|s16|u16|s32|u32|s64|u64|bf16|f16|f32|f64)\[([\d,]*)\]")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s64": 8, "u64": 8, "f64": 8}
COLLECTIVES = ("collective-permute", "all-gather", "all-reduce", "reduce-scatter", "all-to-all")
# Our kernels, and the field of Chip that holds the share of the peak that they reach.
SHARES = {
    "flash_forward": "forward",
    "flash_backward": "backward",
    "grouped_inner": "inner",
    "grouped_outer": "outer",
}
HOST = "S(5)"  # the memory space of arrays that lie in the host's memory


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of the compiled program."""

    name: str
    shape: str
    op: str
    operands: tuple[str, ...]
    line: str

    def named(self, attribute: str) -> str:
        """What an attribute like body=%name names; empty where there is none."""
        found = re.search(rf"{attribute}=%([\w.\-]+)", self.line)
        return found[1] if found else ""


@dataclasses.dataclass(frozen=True)
class Transfer:
    """One transfer of one pass through its computation: seconds, of them `hidden`; `kernels` run meanwhile."""

    name: str
    kind: str
    computation: str
    seconds: float
    hidden: float
    kernels: int

    @property
    def exposed(self) -> float:
        """Seconds of one of its transfers that nothing hides."""
        return self.seconds - self.hidden


@dataclasses.dataclass(frozen=True)
class Schedule:
    """seconds: of the whole program. kernels: of them in attention kernels. transfers: in the program's order, each
    with how often it happens."""

    seconds: float
    kernels: float
    transfers: tuple[tuple[Transfer, float], ...]

    @property
    def exposed(self) -> float:
        """Seconds of a step in which devices only wait for transfers."""
        return sum(t.exposed * times for t, times in self.transfers)

    @property
    def exposed_collectives(self) -> int:
        """Those in the program's text, between devices, that have to be waited for for more than 10 µs."""
        return sum(t.kind in COLLECTIVES and t.exposed > 1e-5 for t, _ in self.transfers)


def read(
    text: str, chip: Chip, chunks: int, micro_batches: int, kernels: Mapping[str, float] | None = None
) -> Schedule:
    """Of a scheduled HLO module.

    chunks and micro_batches: how often the loops run whose count the data give: those of the head over trained
    positions, and those over micro-batches.
    kernels: seconds of a call of the kernels whose names hold these words; others have shares of the peak.
    """
    if "is_scheduled=true" not in text.split("\n", 1)[0]:
        raise ValueError("the program is not scheduled: only a TPU compiler's output says what overlaps")
    program = _Program(text, chip, chunks, micro_batches, kernels or {})
    return Schedule(*program.run(program.entry, 1.0), tuple(program.transfers))


class _Program:
    def __init__(
        self, text: str, chip: Chip, chunks: int, micro_batches: int, kernel_seconds: Mapping[str, float]
    ):
        self.chip, self.chunks, self.micro_batches = chip, chunks, micro_batches
        self.kernel_seconds = kernel_seconds
        self.computations: dict[str, list[Instruction]] = {}
        self.transfers: list[tuple[Transfer, float]] = []
        self.entry = ""
        for block in _COMPUTATION.split(text):
            head = re.match(r"(ENTRY )?%([\w.\-]+) \(", block)
            if head:
                self.computations[head[2]] = list(_instructions(block))
                self.entry = head[2] if head[1] else self.entry

    def run(self, name: str, times: float) -> tuple[float, float]:
        """(seconds of one pass, of them in kernels); `times` is how often it happens, for the list of transfers."""
        clock, kernels, count = 0.0, 0.0, 0
        free = collections.defaultdict(float)  # when links have nothing more to do
        running: dict[str, tuple[float, int, Instruction]] = {}
        for at in self.computations[name]:
            start = running.pop(at.operands[0], None) if at.op.endswith("-done") and at.operands else None
            if start is not None:
                begun, before, first = start
                seconds = self._seconds(first, at.shape)
                if links := _links(first):  # one after the other
                    begun = max(begun, free[links])
                    free[links] = begun + seconds
                end = max(clock, begun + seconds)
                hidden = seconds - (end - clock)
                clock = end
                self._note(Transfer(first.name, _kind(first), name, seconds, hidden, count - before), times)
            elif at.op.endswith("-start") and _kind(at):
                running[at.name] = clock, count, at
            elif at.op == "while":
                passes = self._passes(name, at)
                seconds, inside = self.run(at.named("body"), times * passes)
                clock, kernels, count = clock + passes * seconds, kernels + passes * inside, count + 1
            elif at.op in ("call", "conditional"):
                inner = [self.run(c, times) for c in self._called(at)] or [(0.0, 0.0)]
                seconds, inside = max(inner)
                clock, kernels = clock + seconds, kernels + inside
            elif at.op == "custom-call" and "tpu_custom_call" in at.line:
                seconds = self._kernel(at)
                clock, count = clock + seconds, count + 1
                kernels += seconds if "attention" in at.name or "flash_" in at.name else 0.0
            elif at.op in COLLECTIVES:
                seconds = self._seconds(at, at.shape)
                clock += seconds
                self._note(Transfer(at.name, at.op, name, seconds, 0.0, 0), times)
            elif cycles := _CYCLES.search(at.line):
                clock += int(cycles[1]) / self.chip.hertz
        return clock, kernels

    def _kernel(self, at: Instruction) -> float:
        """Seconds of a call."""
        given = [seconds for name, seconds in self.kernel_seconds.items() if name in at.name]
        if given:
            return given[0]
        flops = _FLOPS.search(at.line)
        return float(flops[1]) / (self.chip.flops * self._share(at)) if flops else 0.0

    def _share(self, at: Instruction) -> float:
        """Of the chip's peak, that a kernel reaches. Raises ValueError for a kernel that was never looked at."""
        found = [share for name, share in SHARES.items() if name in at.name]
        if not found:
            raise ValueError(
                f"no share of the peak is known for the kernel {at.name}; planning/chips.py has them"
            )
        return getattr(self.chip, found[0])

    def _note(self, transfer: Transfer, times: float) -> None:
        if transfer.seconds > 0:
            self.transfers.append((transfer, times))

    def _called(self, at: Instruction) -> list[str]:
        names = (
            [at.named("to_apply")]
            if at.op == "call"
            else re.findall(r"computation\w*=\{?%([\w.\-]+)", at.line)
        )
        return [n for n in names if n in self.computations]

    def _passes(self, computation: str, loop: Instruction) -> float:
        """How often a loop runs: its bound less where it begins; what the data say where there is no constant bound."""
        condition = self.computations[loop.named("condition")]
        constants = {
            i.name: int(i.operands[0]) for i in condition if i.op == "constant" and i.operands[0].isdigit()
        }
        compare = next((i for i in condition if i.op == "compare"), None)
        bounds = [constants[o] for o in compare.operands if o in constants] if compare else []
        if not bounds:
            return self.micro_batches if self._has_kernels(loop.named("body")) else self.chunks
        counter = next((i for i in condition if compare and i.name == compare.operands[0]), None)
        place = re.search(r"index=(\d+)", counter.line) if counter else None
        return max(0, bounds[0] - self._initial(computation, loop, int(place[1]) if place else 0))

    def _initial(self, computation: str, loop: Instruction, place: int) -> int:
        """The constant that a loop's counter begins with; 0 where it cannot be found."""
        there = {i.name: i for i in self.computations[computation]}
        found = there.get(loop.operands[0])
        if found is None or found.op != "tuple" or place >= len(found.operands):
            return 0
        found = there.get(found.operands[place])
        while found is not None and found.op in ("copy", "bitcast", "copy-done", "copy-start"):
            found = there.get(found.operands[0])
        is_number = found is not None and found.op == "constant" and found.operands[0].isdigit()
        return int(found.operands[0]) if found is not None and is_number else 0

    def _has_kernels(self, name: str) -> bool:
        return any(
            "flash_" in i.name or (i.op == "while" and self._has_kernels(i.named("body")))
            for i in self.computations[name]
        )

    def _seconds(self, at: Instruction, made: str) -> float:
        """Of a transfer alone on its links, which makes arrays of this shape. Where several devices take part, they
        form a ring of links in both directions."""
        kind = _kind(at)
        if kind == "host copy":  # an update has the whole array, the part that is copied, and where it goes
            update = at.op.startswith("dynamic-update-slice")
            return _bytes("{}[{}]".format(*_ARRAY.findall(at.shape)[1]) if update else made) / HOST_LINK
        size = _bytes(made)
        if kind == "collective-permute":
            return size / self.chip.link
        inner = self.computations.get(at.named("to_apply"), [])
        members = max([_group(at.line), *(_group(i.line) for i in inner)])
        # All-to-all: what crosses a link of a ring grows with a quarter of those who take part.
        factors = {"all-reduce": 2.0, "reduce-scatter": float(members), "all-to-all": max(1.0, members / 4)}
        times = factors.get(kind, 1.0)
        return times * (members - 1) / members * size / (2 * self.chip.link)


def _instructions(block: str) -> Iterator[Instruction]:
    for line in _INSTRUCTION.split(re.sub(r"/\*index=\d+\*/", "", block))[1:]:
        if found := _HEAD.match(line):
            operands = tuple(o.strip().split(" ")[-1].lstrip("%") for o in found[4].split(",") if o.strip())
            yield Instruction(found[1], found[2], found[3], operands, line)


def _kind(at: Instruction) -> str:
    """What a start starts; empty where that takes no link (prefetches into fast memory)."""
    base = at.op.removesuffix("-start").removesuffix("-done")
    if base in COLLECTIVES:
        return base
    if base in ("call", "async"):  # by the SparseCores: the name says what
        return next((kind for kind in COLLECTIVES if at.name.startswith(kind)), "")
    copies = ("copy", "dynamic-slice", "dynamic-update-slice")
    return "host copy" if base in copies and HOST in at.line.split(" metadata=")[0] else ""


def _links(at: Instruction) -> str:
    """A name of the links that transfers of this kind take one after the other; empty where they are not followed."""
    if _kind(at) == "host copy":  # its start's shape begins with what is made or, of slices, with the whole
        there = not at.op.startswith("dynamic-slice") and HOST in at.shape.partition("}")[0]
        return "to the host" if there else "from the host"
    pairs = re.search(r"source_target_pairs=\{[{}\d,]*\}", at.line)
    return pairs[0] if pairs else ""


def _bytes(shape: str) -> int:
    return sum(
        _BYTES.get(kind, 4) * math.prod(int(n) for n in dims.split(",") if n)
        for kind, dims in _ARRAY.findall(shape)
    )


def _group(line: str) -> int:
    """How many devices take part together."""
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return found[1].count(",") + 1
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", found[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", found[2]))
    if found := re.search(r"replica_groups=\[(\d+),(\d+)\]", line):
        return int(found[2])
    return 1
