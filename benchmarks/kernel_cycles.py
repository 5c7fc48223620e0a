"""Static cycles of attention kernels on TPUs, without a TPU: ours, and beside them jax's splash and tokamax's.

    pip install -e '.[tpu]' tokamax
    python benchmarks/kernel_cycles.py

A TPU is a statically scheduled machine, and its compiler (libtpu, an ordinary wheel) carries a cycle simulator of the
final program. Each kernel is compiled ahead of time for one chip, and the simulator's figure is read from the profile
that it dumps. Utilisation is useful flops / (cycles · peak of a device, which is a chip, or half a tpu7x): 4·S²·E per
head forward and 10·S²·E backward, half of it where the mask is causal; recomputed scores do not count. bfloat16, heads
of 128, eight query heads on two key/value heads, as Qwen3-8B groups them. A causal row of 32K is a·S² + b·S, from 8K
and 16K, of two heads: it takes 30 µs a cycle. spans_over_full is what a visible block of keys costs where a table says
what is seen, as for packed rows, over what it costs without: the growth of cycles from 4K to 8K, all of it seen (the
simulator reads tables as zeros, which in ours say so).

The peers get the best of a few block sizes, with a full mask only: the tables by which they skip blocks read as zeros
here. What is not installed, or whose program the simulator does not take, is left out, and said so. Not tried: peers on
a v5e and a tpu7x.

Experts' products (kernels/grouped_matmul) have the sizes of Qwen3-30B-A3B and tiles of 128 tokens, or of 256 where
matrix units are so deep: of tokens with weights, of two such with weights turned round, added up, and of the weights'
gradients.

Paged attention over a part of a row's keys (kernels/paged_attention/tpu_part.py), where devices split the tokens of
pages: pages_read, four rows of 16K keys that meet a token each, as a share of the bandwidth; pages_fed, two rows that
meet 128 tokens, of the peak.

What it is not: a measurement. HBM's contention and the masked edges of packed rows are not in it.

`--only NAME` makes the figures anew whose names contain it, `--chips` those of some chips, and the others of the
results' file, which must be of the same versions, stay. `--sweep` looks for better block sizes than
kernels/flash_attention/blocks.json has, one size at a time from those that are there, and writes what it found into it:
a round is at most 21 tries, of half a minute or a minute each. Of a v4 the simulator has no model; a kernel that a v4
has room for gets the cycles of a v5p, which has its matrix units.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cycles.simulator import CHIPS, Case, DidNotCompile, cycles_of, kernels_of
from measuring import Options
from results import FOLDER, device, finish

from mirothinker_jax.data.atomic import replacing
from mirothinker_jax.planning.chips import TPUS

BLOCKS = Path(__file__).parents[1] / "kernels" / "flash_attention" / "blocks.json"
HEADS = 8
# Figures that are not made: where the simulator aborts, as of tables and counts on a v5e, having no model of how they
# are fetched, or of copies that a kernel makes itself on any chip but a v5p; and those of a v4 that take no block sizes
# of its own, and would be a v5p's.
LEFT_OUT = {
    "v4": ("spans", "experts", "causal", "pages"),
    "v5e": ("spans", "experts", "pages"),
    "v6e": ("pages",),
    "tpu7x": ("spans", "pages"),
}
Figures = dict[str, Callable[[], tuple[float, int]]]  # by name, what finds (utilisation, cycles)
SHORT = {"forward": "fwd", "backward": "bwd"}
# Block sizes (queries, keys, keys of a product) of which a peer gets the best.
PEERS = {
    "splash": ((1024, 2048, 512), (2048, 1024, 512)),
    "tokamax": ((1024, 1024, 512), (1024, 2048, 1024)),
}
# Not backward on a v6e, where the simulator was not done with either of them after five minutes.
PEER_PASSES = (("v5p", "forward"), ("v5p", "backward"), ("v6e", "forward"))
# What a sweep tries. A strip is what a masked pass takes, which these figures have none of, and stays. Keys of a call
# (segment) are limited backward alone, where their gradients stay in fast memory.
CHOICES = {
    "segment": (2048, 4096),
    "queries": (512, 1024, 2048),
    "chunk": (128, 256, 512),
    "tile": (128, 256, 512),
    "stretch": (1024, 2048, 4096),
    "ahead": (1, 2, 3, 4, 5, 6, 8),
}
MARGIN = 0.005  # of the peak: less is not worth other sizes, of which smaller pieces take longer to compile


def ours(chip: str) -> Figures:
    def share(case: Case, count: Callable[[Case], float] = cycles_of) -> tuple[float, int]:
        cycles = count(case)
        return case.utilisation(cycles), round(cycles)

    def of_bandwidth(case: Case) -> tuple[float, int]:
        cycles = cycles_of(case)
        return case.bytes_read / cycles * TPUS[chip].hertz / TPUS[chip].bandwidth, cycles

    def spans() -> tuple[float, int]:
        after, before = growth(chip, "spans"), growth(chip, "full")
        return after / before, after

    make = functools.partial
    table = json.loads(BLOCKS.read_text()).get(chip, {})
    figures: Figures = {}
    for way in SHORT:
        case = Case(chip, way, "full", 4096, HEADS, sizes=tuple(table.get(way, {}).items()))
        figures[f"{chip}_{SHORT[way]}_full_4k"] = make(share, case)
    for way in ("inner", "turned", "outer"):
        case = Case(chip, way, "full", 4096, heads=8, system="experts")
        figures[f"{chip}_experts_{way}"] = make(share, case)
    for way, name in (("read", "read"), ("feed", "fed")):
        case = Case(chip, way, "full", 16384, HEADS, system="pages")
        figures[f"{chip}_pages_{name}"] = make(of_bandwidth if way == "read" else share, case)
    long = Case(chip, "forward", "causal", 32768, heads=2)
    figures[f"{chip}_fwd_causal_32k"] = make(share, long, extrapolate_cycles)
    figures[f"{chip}_fwd_spans_over_full"] = spans
    for name in [name for name in figures if any(part in name for part in LEFT_OUT.get(chip, ()))]:
        print(f"{name}: not made, see LEFT_OUT", flush=True)
        del figures[name]
    return figures


def extrapolate_cycles(case: Case) -> float:
    """Cycles of a causal row from two that are shorter, as a·S² + b·S."""
    half, one = (cycles_of(dataclasses.replace(case, length=n)) for n in (8192, 16384))
    square = (one - 2 * half) / (16384**2 - 2 * 8192**2)
    line = (half - square * 8192**2) / 8192
    return square * case.length**2 + line * case.length


def growth(chip: str, mask: str) -> int:
    """Cycles that a row of 8K of two heads takes more than one of 4K."""
    before, after = (cycles_of(Case(chip, "forward", mask, n, heads=2)) for n in (4096, 8192))
    return after - before


def peer(system: str, chip: str) -> Figures:
    def best(way: str) -> tuple[float, int]:
        counts = []
        for sizes in PEERS[system]:
            named = tuple(zip(("queries", "keys", "compute"), sizes, strict=True))
            try:
                counts.append(cycles_of(Case(chip, way, "full", 4096, HEADS, system, named)))
            except DidNotCompile as error:
                print(f"{system} {sizes}: {str(error)[-120:]}", flush=True)
        if not counts:
            raise DidNotCompile("with none of these sizes")
        return Case(chip, way, "full", 4096, HEADS).utilisation(min(counts)), min(counts)

    ways = [way for there, way in PEER_PASSES if there == chip]
    return {f"{chip}_{SHORT[way]}_full_4k": functools.partial(best, way) for way in ways}


def sweep(chip: str, way: str) -> None:
    """Coordinate descent: the best of one size, with the others as they are, until nothing is better by MARGIN."""
    table = json.loads(BLOCKS.read_text())
    sizes = dict(table[chip][way])

    def of(sizes: dict[str, int]) -> Case:
        return Case(chip, way, "full", 4096, HEADS, sizes=tuple(sizes.items()))

    best, better = _share(of(sizes)), True
    print(f"{chip} {way}: {best:.3f} with {sizes}", flush=True)
    of_way = [name for name in CHOICES if (way, name) != ("forward", "segment")]
    tries = [(name, size) for name in of_way for size in CHOICES[name]]
    while better:
        better = False
        for done, (name, size) in enumerate(tries, start=1):
            tried = sizes | {name: size}
            share = _share(of(tried))
            print(f"{chip} {way}: {share:.3f} with {name} {size} ({done}/{len(tries)})", flush=True)
            if share > best + MARGIN and _other_masks_fit(of(tried)):
                best, better, sizes = share, True, tried
                print(f"{chip} {way}: {best:.3f} with {sizes}", flush=True)
    table[chip][way] = sizes
    lines = (
        f' "{c}": {{\n' + ",\n".join(f'  "{w}": {json.dumps(s)}' for w, s in ways.items()) + "\n }"
        for c, ways in table.items()
    )
    with replacing(BLOCKS) as scratch:
        scratch.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


@functools.cache
def _share(case: Case) -> float:
    """Of the peak; 0 where it does not compile."""
    try:
        return case.utilisation(cycles_of(case))
    except DidNotCompile as error:
        print(str(error)[-120:], flush=True)
        return 0.0


def _other_masks_fit(case: Case) -> bool:
    """Whether there is room for the same sizes with a causal mask, and with a table."""
    try:
        return all(kernels_of(dataclasses.replace(case, mask=mask)) for mask in ("causal", "spans"))
    except DidNotCompile as error:
        print(str(error)[-120:], flush=True)
        return False


def main() -> None:
    options = arguments()
    try:
        importlib.metadata.version("libtpu")
    except importlib.metadata.PackageNotFoundError:
        raise SystemExit("libtpu is not installed: pip install -e '.[tpu]' (no TPU needed)") from None
    chips = options.chips.split(",")
    if unknown := set(chips) - CHIPS.keys():
        raise SystemExit(f"--chips: {', '.join(sorted(unknown))} is not one of {', '.join(CHIPS)}")
    if options.sweep and options.only:
        raise SystemExit("--only is for figures, --sweep for block sizes: give one of them")
    if options.sweep:
        table = json.loads(BLOCKS.read_text())
        for chip in chips:
            if chip not in table:
                print(f"{chip} has another chip's block sizes: left out", flush=True)
                continue
            for way in SHORT:
                sweep(chip, way)
        return
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "libtpu")}
    wanted = {"": {name: make for chip in chips for name, make in ours(chip).items()}}
    for system in PEERS:
        wanted[system] = {name: make for chip in chips for name, make in peer(system, chip).items()}
    try:
        versions["tokamax"] = importlib.metadata.version("tokamax")
    except importlib.metadata.PackageNotFoundError:
        print("tokamax is not installed and is left out: pip install tokamax", flush=True)
        del wanted["tokamax"]
    kept: dict[str, Any] = {"cycles": {}}
    if options.only or set(chips) != CHIPS.keys():
        kept = json.loads((FOLDER / "kernel_cycles.json").read_text())
        if kept["versions"] != versions:
            raise SystemExit(
                f"with --only or --chips the other figures stay, which are of {kept['versions']}; here are {versions}"
            )
    found, failed = measure(wanted, options.only, kept)
    if not found:
        raise SystemExit(
            f"nothing is kept; failed: {', '.join(failed) or 'none, since none has such a name'}"
        )
    finish("kernel_cycles", kept | {"device": device(), "versions": versions})
    if failed:
        raise SystemExit(f"left out: {', '.join(failed)}")


def measure(wanted: dict[str, Figures], only: str, kept: dict[str, Any]) -> tuple[int, list[str]]:
    """Puts the figures into what is kept, and takes out those that fail; how many were found, and who failed."""
    found, failed = 0, []
    for system, figures in wanted.items():
        shares, cycles = kept, kept["cycles"]
        if system:
            shares, cycles = shares.setdefault(system, {}), cycles.setdefault(system, {})
        for name in [name for name in figures if only in name]:
            try:
                shares[name], cycles[name] = figures[name]()
                print(f"{system:8} {name:24} {shares[name]:.3f}  {cycles[name]:,} cycles", flush=True)
                found += 1
            except DidNotCompile as error:
                print(f"{system:8} {name:24} left out: {str(error)[-120:]}", flush=True)
                failed.append(f"{system} {name}".strip())
                shares.pop(name, None)
                cycles.pop(name, None)
    return found, failed


def arguments() -> argparse.Namespace:
    options = Options(__doc__)
    options.add("chips", ",".join(CHIPS), "with commas")
    options.add("only", "", "of figures' names: others are kept as they are")
    options.add_argument("--sweep", action="store_true", help="look for better block sizes instead")
    return options.parse_args()


if __name__ == "__main__":
    main()
