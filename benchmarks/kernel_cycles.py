"""Static cycles of attention kernels on TPUs, without a TPU: ours, and beside them jax's splash and tokamax's.

    pip install -e '.[tpu]' tokamax
    python benchmarks/kernel_cycles.py

A TPU is a statically scheduled machine, and its compiler (libtpu, an ordinary wheel) carries a cycle simulator of the
final program. Each kernel is compiled ahead of time for one chip, and the simulator's figure is read from the profile
that it dumps. Utilisation is useful flops / (cycles · peak of the whole chip): 4·S²·E per head forward and 10·S²·E
backward, half of it where the mask is causal; recomputed scores do not count. bfloat16, heads of 128, eight query heads
on two key/value heads, as Qwen3-8B groups them. A causal row of 32K is a·S² + b·S, from 8K and 16K, of two heads: it
takes 30 µs a cycle. spans_over_full is what a visible block of keys costs where a table says what is seen, as for
packed rows, over what it costs without: the growth of cycles from 4K to 8K, all of it seen (the simulator reads tables
as zeros, which in ours say so).

The peers get the best of a few block sizes, with a full mask only: the tables by which they skip blocks read as zeros
here. A peer that is not installed, or whose program the simulator does not take, is left out, and said so.

Experts' products (kernels/grouped_matmul) have the sizes of Qwen3-30B-A3B and tiles of 128 tokens: of tokens with
weights, of two such with weights turned round, added up, and of the weights' gradients.

What it is not: a measurement. HBM's contention and the masked edges of packed rows are not in it.

`--sweep` looks for better block sizes than kernels/flash_attention/blocks.json has, one size at a time from those that
are there, and writes what it found into it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
from pathlib import Path
from typing import Any

from cycles.simulator import CHIPS, Case, DidNotCompile, cycles_of
from measuring import Options
from results import device, finish

from mirothinker_jax.data.atomic import replacing

BLOCKS = Path(__file__).parents[1] / "kernels" / "flash_attention" / "blocks.json"
HEADS = 8
SHORT = {"forward": "fwd", "backward": "bwd"}
# Block sizes (queries, keys, keys of a product) of which a peer gets the best.
PEERS = {
    "splash": ((1024, 2048, 512), (2048, 1024, 512)),
    "tokamax": ((1024, 1024, 512), (1024, 2048, 1024)),
}
# Not backward on a v6e, where the simulator was not done with either of them after five minutes.
PEER_PASSES = (("v5p", "forward"), ("v5p", "backward"), ("v6e", "forward"))
# What a sweep tries. A strip is what a masked pass takes, which these figures have none of, and stays.
CHOICES = {
    "queries": (1024, 2048),
    "chunk": (128, 256, 512),
    "tile": (128, 256, 512),
    "stretch": (1024, 2048, 4096),
    "ahead": (1, 2, 3, 4, 5, 6, 8),
}


def say(name: str, share: float, cycles: int) -> None:
    print(f"{name:32} {share:.3f}  {cycles:,} cycles", flush=True)


def ours(chip: str) -> dict[str, tuple[float, int]]:
    """(utilisation, cycles) by figure."""
    found = {}

    def keep(name: str, case: Case, count: float) -> None:
        found[name] = case.utilisation(count), round(count)
        say(name, *found[name])

    for way in SHORT:
        case = Case(chip, way, "full", 4096, HEADS)
        keep(f"{chip}_{SHORT[way]}_full_4k", case, cycles_of(case))
    for way in ("inner", "turned", "outer"):
        case = Case(chip, way, "full", 4096, heads=8, system="experts")
        keep(f"{chip}_experts_{way}", case, cycles_of(case))
    half, one = (cycles_of(Case(chip, "forward", "causal", n, heads=2)) for n in (8192, 16384))
    square = (one - 2 * half) / (16384**2 - 2 * 8192**2)
    line = (half - square * 8192**2) / 8192
    long = Case(chip, "forward", "causal", 32768, heads=2)
    keep(f"{chip}_fwd_causal_32k", long, square * 32768**2 + line * 32768)
    more = {
        mask: [cycles_of(Case(chip, "forward", mask, n, heads=2)) for n in (4096, 8192)]
        for mask in ("full", "spans")
    }
    grown = {mask: after - before for mask, (before, after) in more.items()}
    name = f"{chip}_fwd_spans_over_full"
    found[name] = grown["spans"] / grown["full"], more["spans"][1]
    say(name, *found[name])
    return found


def peer(system: str, chip: str) -> dict[str, tuple[float, int]]:
    found = {}
    for way in (way for there, way in PEER_PASSES if there == chip):
        name, counts = f"{chip}_{SHORT[way]}_full_4k", {}
        for sizes in PEERS[system]:
            named = tuple(zip(("queries", "keys", "compute"), sizes, strict=True))
            case = Case(chip, way, "full", 4096, HEADS, system, named)
            try:
                counts[sizes] = cycles_of(case)
            except DidNotCompile as error:
                print(f"{system} {name} {sizes}: {str(error)[-120:]}", flush=True)
        if counts:
            count = min(counts.values())
            found[name] = Case(chip, way, "full", 4096, HEADS).utilisation(count), count
            say(f"{system} {name}", *found[name])
    return found


def sweep(chip: str, way: str) -> None:
    """Coordinate descent: the best of one size, with the others as they are, until nothing is better."""
    table = json.loads(BLOCKS.read_text())
    sizes = dict(table[chip][way])

    def share(sizes: dict[str, int]) -> float:
        case = Case(chip, way, "full", 4096, HEADS, sizes=tuple(sizes.items()))
        try:
            return case.utilisation(cycles_of(case))
        except DidNotCompile as error:
            print(f"{sizes}: {str(error)[-120:]}", flush=True)
            return 0.0

    best, better = share(sizes), True
    print(f"{chip} {way}: {best:.3f} with {sizes}", flush=True)
    while better:
        better = False
        for name, choices in CHOICES.items():
            for size in choices:
                if size != sizes[name] and (there := share(sizes | {name: size})) > best:
                    best, better, sizes = there, True, sizes | {name: size}
                    print(f"{chip} {way}: {best:.3f} with {sizes}", flush=True)
    table[chip][way] = sizes
    lines = (
        f' "{c}": {{\n' + ",\n".join(f'  "{w}": {json.dumps(s)}' for w, s in ways.items()) + "\n }"
        for c, ways in table.items()
    )
    with replacing(BLOCKS) as scratch:
        scratch.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def main() -> None:
    options = arguments()
    try:
        importlib.metadata.version("libtpu")
    except importlib.metadata.PackageNotFoundError:
        raise SystemExit("libtpu is not installed: pip install -e '.[tpu]' (no TPU needed)") from None
    chips = options.chips.split(",")
    if unknown := set(chips) - CHIPS.keys():
        raise SystemExit(f"--chips: {', '.join(sorted(unknown))} is not one of {', '.join(CHIPS)}")
    if options.sweep:
        for chip in chips:
            for way in SHORT:
                sweep(chip, way)
        return
    try:
        found = {name: figure for chip in chips for name, figure in ours(chip).items()}
    except DidNotCompile as error:
        raise SystemExit(str(error)) from None
    figures: dict[str, Any] = {name: share for name, (share, _) in found.items()}
    cycles: dict[str, Any] = {name: count for name, (_, count) in found.items()}
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "libtpu")}
    for system in PEERS:
        if system == "tokamax":
            try:
                versions[system] = importlib.metadata.version(system)
            except importlib.metadata.PackageNotFoundError:
                print("tokamax is not installed and is left out: pip install tokamax", flush=True)
                continue
        there = {name: figure for chip in chips for name, figure in peer(system, chip).items()}
        figures[system] = {name: share for name, (share, _) in there.items()}
        cycles[system] = {name: count for name, (_, count) in there.items()}
    finish("kernel_cycles", figures | {"cycles": cycles, "device": device(), "versions": versions})


def arguments() -> argparse.Namespace:
    options = Options(__doc__)
    options.add("chips", "v5p,v6e", "of v5p, v6e, with commas")
    options.add_argument("--sweep", action="store_true", help="look for better block sizes instead")
    return options.parse_args()


if __name__ == "__main__":
    main()
