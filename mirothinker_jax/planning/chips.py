"""What a plan knows of chips, and which slices of them there are.

Peaks and bandwidths are the vendors' and those of "How to Scale Your Model" (jax-ml.github.io/scaling-book, part 2);
memory is what the compiler lets a program use, where it said so, and what is on the label elsewhere. The hosts are
Google Cloud's machine types with four chips (docs.cloud.google.com/tpu/docs), and eight GPUs.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import math
from collections.abc import Mapping

from mirothinker_jax.config_tree import ConfigError


@dataclasses.dataclass(frozen=True)
class Chip:
    """flops (bfloat16 per second) and memory_gib: of a device; a chip has `devices`. host_gib: its share of its host's
    memory; 0: not known. dims: of the torus; 1: any number of them.

    Of TPUs only: bandwidth of the memory, bytes per second; link, bytes per second, one way, to a neighbour; hertz, of
    the clock that cycles are of; forward and backward, our attention kernels' share of the peak: of a causal row of
    32K, and of a full one of 4K, which is what a call backward takes at once (a v4's: 2K keys); inner and outer, that
    of experts' products and of their weights' gradients (docs/notes/kernels.md has all of them). A v4's attention is a
    v5p's with a v4's blocks, less what a causal row costs a v5p; the experts' products of v4 and v5e are taken for a
    v5p's.
    """

    name: str
    flops: float
    memory_gib: float
    host_gib: float = 0.0
    dims: int = 1
    link: float = 0.0
    hertz: float = 0.0
    accelerator: str = ""
    forward: float = 0.0
    backward: float = 0.0
    inner: float = 0.0
    outer: float = 0.0
    devices: int = 1
    bandwidth: float = 0.0

    @property
    def host_room_gib(self) -> float:
        """Of host_gib, what a step may fill; the rest is for the host's own programs, and the rows it packs."""
        return 0.9 * self.host_gib or math.inf

    @property
    def assumptions(self) -> dict[str, float]:
        """What a step's time is estimated with, besides the cycles that the compiler gives to fusions."""
        return {
            "peak_flops_per_s": self.flops,
            "hertz": self.hertz,
            "attention_forward_share_of_peak": self.forward,
            "attention_backward_share_of_peak": self.backward,
            "experts_products_share_of_peak": self.inner,
            "experts_weight_gradients_share_of_peak": self.outer,
            "link_bytes_per_s_one_way": self.link,
            "host_link_bytes_per_s": HOST_LINK,
        }


TPUS = {
    chip.name: chip
    for chip in (
        Chip("v4", 275e12, 31.25, 94.8, 3, 45e9, 1.05e9, "v4-8", 0.87, 0.94, 0.83, 0.71, bandwidth=1.2e12),
        Chip(
            "v5e",
            197e12,
            15.75,
            44.7,
            2,
            45e9,
            1.5e9,
            "v5litepod-4",
            0.92,
            0.96,
            0.83,
            0.71,
            bandwidth=8.1e11,
        ),
        Chip("v5p", 459e12, 95.73, 104.3, 3, 90e9, 1.75e9, "v5p-8", 0.91, 0.96, 0.83, 0.71, bandwidth=2.8e12),
        Chip("v6e", 918e12, 31.24, 167.6, 2, 90e9, 1.75e9, "v6e-4", 0.38, 0.51, 0.66, 0.52, bandwidth=1.6e12),
        # Its two cores are two devices, which share the chip's links. The clock is what its peak implies.
        Chip(
            "tpu7x",
            1153.5e12,
            94.75,
            111.8,
            3,
            50e9,
            2.2e9,
            "tpu7x-8",
            0.38,
            0.51,
            0.69,
            0.53,
            devices=2,
            bandwidth=3.7e12,
        ),
    )
}
# Only arithmetic: no compiler of these is at hand.
GPUS = {
    chip.name: chip
    for chip in (Chip("h100", 989e12, 79.0), Chip("h200", 989e12, 139.0), Chip("a100", 312e12, 79.0))
}
GIB = 2**30
HOST_LINK = 16e9  # bytes per second between a device and its host's memory


@dataclasses.dataclass(frozen=True)
class Topology:
    """A slice: chips of one kind. `name` is what libtpu calls it."""

    name: str
    chip: Chip
    shape: tuple[int, ...]

    @property
    def devices(self) -> int:
        """How many devices the slice has."""
        return math.prod(self.shape) * self.chip.devices

    @property
    def compiles(self) -> bool:
        """Whether a compiler for it can be had here."""
        return self.chip.name in TPUS


def host(topology: Topology) -> Topology:
    """What one host has of a slice: a slice of its own, or the whole of a smaller one."""
    chip, shape = topology.chip, {1: (8,), 2: (2, 2), 3: (2, 2, 1)}[topology.chip.dims]
    if math.prod(shape) >= math.prod(topology.shape):
        return topology
    return Topology(f"{chip.name}:{'x'.join(map(str, shape))}", chip, shape)


def slices(chip: Chip) -> list[str]:
    """The slices of a kind of chip, smallest first: powers of two per dim, no dim more than twice a smaller one."""
    if chip.dims == 1:
        return [str(1 << n) for n in range(11)]
    largest = 16 if chip.dims == 2 else 8
    sizes = [1 << n for n in range(largest.bit_length())]
    shapes = [
        shape
        for shape in itertools.combinations_with_replacement(sizes, chip.dims)
        if shape[-1] <= 2 * shape[0] and (min(shape) > 1 or max(shape) == 1)
    ]
    if chip.dims == 3:  # a host has 2 × 2 × 1 chips
        shapes = [(2, 2, 1), *(s for s in shapes if min(s) > 1)]
    return ["x".join(map(str, s)) for s in sorted(shapes, key=lambda s: (math.prod(s), s))]


def parse(text: str) -> Topology:
    """`v5p:4x4x4`, `h100:8`. Raises ConfigError, with the names that there are."""
    kind, _, size = text.partition(":")
    known: Mapping[str, Chip] = TPUS | GPUS
    if kind not in known:
        near = difflib.get_close_matches(kind, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"chips: {', '.join(known)}"
        raise ConfigError(f"--topology {text}: {kind!r} is no chip that plan knows; {hint}")
    chip = known[kind]
    there = slices(chip)
    if size not in there:
        raise ConfigError(
            f"--topology {text}: plan knows {kind} as {', '.join(f'{kind}:{s}' for s in there)}"
        )
    return Topology(text, chip, tuple(int(n) for n in size.split("x")))
