"""Static cycles of our attention kernels on TPUs, without a TPU.

    pip install -e '.[tpu]'
    python benchmarks/kernel_cycles.py

A TPU is a statically scheduled machine, and its compiler (libtpu, an ordinary wheel) carries a cycle simulator of the
final program. Each kernel is compiled ahead of time for one chip, and the simulator's figure is read from the profile
that it dumps. Utilisation is useful flops / (cycles · peak of the whole chip): 4·S²·E per head forward and 10·S²·E
backward, half of it where the mask is causal; recomputed scores do not count. bfloat16, heads of 128: eight query heads
on two key/value heads forward, as Qwen3-8B groups them, and two with keys of their own backward (the simulator does not
follow groups there). A causal row of 32K is a·S² + b·S, from 8K and 16K, of two heads: it takes 30 µs a cycle.

What it is not: a measurement. HBM's contention and the scalar tables of packed rows (which it reads as zeros) are not
in it. Left out for the same reason: jax's splash attention, which skips blocks by such tables even where there is
nothing to skip, so that its simulated figures mean nothing. `--sweep` prints our kernels for many block sizes, from
which kernels/flash_attention/tiling.py is chosen.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measuring import Options
from results import device, finish, table

# bfloat16 flops per cycle of a whole chip, and what to compile for.
CHIPS = {"v5p": (262_144, "v5p:2x2x1", "v5p-8"), "v6e": (524_288, "v6e:2x2", "v6e-8")}
SIZE, HEADS = 128, {"fwd": 8, "bwd": 2}


@dataclasses.dataclass(frozen=True)
class Case:
    """One kernel: what to compile, and for which chip."""

    chip: str
    way: str  # fwd, bwd
    mask: str  # full, causal
    length: int
    heads: int  # of queries
    blocks: tuple[int, ...] = ()  # queries, tile, strip; none: those of tiling.py

    @property
    def useful_flops(self) -> float:
        whole = (4 if self.way == "fwd" else 10) * self.length**2 * SIZE * self.heads
        return whole / 2 if self.mask == "causal" else whole

    def utilisation(self, cycles: float) -> float:
        return self.useful_flops / cycles / CHIPS[self.chip][0]


def compile_case(case: Case) -> None:
    """In a process of its own: compiles, and prints the names of the kernels."""
    import jax
    from jax.experimental import topologies
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    chip = topologies.get_topology_desc(CHIPS[case.chip][1], "tpu").devices[:1]
    mesh = Mesh(chip, ("chip",))
    function, shapes = kernel_of(case)
    whole = NamedSharding(mesh, PartitionSpec())
    shapes = [jax.ShapeDtypeStruct(shape, dtype, sharding=whole) for shape, dtype in shapes]
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        lowered = jax.jit(function).lower(*shapes)
    text = lowered.compile().as_text() or ""
    names = re.findall(r"%(\S+) = [^\n]* custom-call\([^\n]*tpu_custom_call", text)
    sys.stdout.write(json.dumps(sorted(set(names))) + "\n")


def kernel_of(case: Case) -> tuple[Any, list]:
    import jax.numpy as jnp
    from mirothinker_kernels.flash_attention import (  # pyright: ignore[reportMissingImports]
        backward,
        forward,
        mask,
        strips,
        tiling,
    )

    largest = tiling.forward_blocks(case.mask) if case.way == "fwd" else tiling.BACKWARD
    queries, tile, strip = case.blocks or (largest.queries, largest.tile, largest.strip)
    # One segment: what a call of the kernel takes. The mask needs no table.
    blocks = tiling.fitted(
        strips.Blocks(queries, tile, strip, max(case.length, strip)), case.length, case.length
    )
    kind = mask.Mask(case.mask)
    run = {"fwd": forward.forward, "bwd": backward.backward}[case.way]
    rows, keys, turned = (case.heads, case.length, SIZE), (2, case.length, SIZE), (2, SIZE, case.length)
    lanes = (case.heads, 1, case.length)
    half, single = jnp.bfloat16, jnp.float32
    shapes = {
        "fwd": [(rows, half), (keys, half), (turned, half)],
        "bwd": [(rows, half), (rows, half), (lanes, single), (lanes, single), (keys, half), (turned, half),
                (keys, half), (rows, single)],
    }[case.way]  # fmt: skip
    if case.way == "fwd":
        return lambda *a: run(*a, kind, blocks, vmem_bytes=tiling.VMEM_BYTES), shapes
    return lambda *a: run(*a, None, 0, kind, blocks, vmem_bytes=tiling.VMEM_BYTES), shapes


def cycles_of(case: Case) -> int:
    """Of the case's kernel."""
    names = json.loads(_child(case, "").splitlines()[-1])
    if len(names) != 1:
        raise SystemExit(f"{case}: {len(names)} kernels in the compiled program")
    with tempfile.TemporaryDirectory() as folder:
        _child(
            case, f"--xla_jf_dump_static_llo_profile_to={folder} --xla_jf_dump_only_matching_hlo={names[0]}"
        )
        profiles = [path.read_text() for path in Path(folder).glob("*_static_llo_profile.textproto")]
    found = [int(n) for text in profiles for n in re.findall(r"estimated_cycles: (\d+)", text)]
    if not found:
        raise SystemExit(f"{case}: the compiler dumped no profile of {names[0]}")
    return found[0]


def _child(case: Case, flags: str) -> str:
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": CHIPS[case.chip][2],
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_WORKER_ID": "0",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # or two processes collide on its lock file
        "LIBTPU_INIT_ARGS": flags,
    }
    command = [sys.executable, __file__, "--case", json.dumps(dataclasses.asdict(case))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        last = [line for line in done.stderr.splitlines() if line.strip()][-1:]
        raise SystemExit(f"{case} did not compile: {''.join(last)}")
    return done.stdout


def measure(chip: str, say: Callable[[str, float, int], None]) -> tuple[dict[str, float], dict[str, int]]:
    """(utilisation by figure, cycles by figure) of one chip."""
    figures: dict[str, float] = {}
    cycles: dict[str, int] = {}

    def keep(name: str, case: Case, count: float) -> None:
        figures[name], cycles[name] = case.utilisation(count), round(count)
        say(name, figures[name], cycles[name])

    for way in ("fwd", "bwd"):
        case = Case(chip, way, "full", 4096, HEADS[way])
        keep(f"{chip}_{way}_full_4k", case, cycles_of(case))
    half, one = (cycles_of(Case(chip, "fwd", "causal", n, heads=2)) for n in (8192, 16384))
    square = (one - 2 * half) / (16384**2 - 2 * 8192**2)
    line = (half - square * 8192**2) / 8192
    keep(
        f"{chip}_fwd_causal_32k",
        Case(chip, "fwd", "causal", 32768, heads=2),
        square * 32768**2 + line * 32768,
    )
    return figures, cycles


def sweep(chip: str, way: str, mask: str, length: int) -> None:
    """Our kernel for many block sizes, best last."""
    rows = []
    for queries, tile, strip in itertools.product((512, 1024, 2048), (128, 256), (512, 1024, 2048, 4096)):
        case = Case(chip, way, mask, length, HEADS[way], (queries, tile, strip))
        try:
            count = cycles_of(case)
        except SystemExit as error:
            print(f"{queries} {tile} {strip}: {error}", flush=True)
            continue
        rows.append((case.utilisation(count), f"{queries} × {strip} by {tile}", count))
        print(rows[-1], flush=True)
    print(
        table(
            ("queries × strip by tile", "util", "cycles"),
            [(n, f"{u:.3f}", f"{c:,}") for u, n, c in sorted(rows)],
        )
    )


def main() -> None:
    options = arguments()
    if options.case:
        fields = json.loads(options.case)
        compile_case(Case(**{**fields, "blocks": tuple(fields["blocks"])}))
        return
    try:
        importlib.metadata.version("libtpu")
    except importlib.metadata.PackageNotFoundError:
        raise SystemExit("libtpu is not installed: pip install -e '.[tpu]' (no TPU needed)") from None
    chips = options.chips.split(",")
    if unknown := set(chips) - CHIPS.keys():
        raise SystemExit(f"--chips: {', '.join(sorted(unknown))} is not one of {', '.join(CHIPS)}")
    if options.sweep:
        for chip, way in itertools.product(chips, ("fwd", "bwd")):
            print(f"{chip} {way}")
            sweep(chip, way, "full", 4096)
        return
    figures: dict[str, Any] = {}
    cycles: dict[str, int] = {}
    for chip in chips:
        say = lambda name, share, count: print(f"{name:32} {share:.3f}  {count:,} cycles", flush=True)  # noqa: E731
        more, counts = measure(chip, say)
        figures |= more
        cycles |= counts
    packages = ("jax", "jaxlib", "libtpu")
    finish(
        "kernel_cycles",
        figures
        | {"cycles": cycles}
        | {"device": device(), "versions": {name: importlib.metadata.version(name) for name in packages}},
    )


def arguments() -> argparse.Namespace:
    options = Options(__doc__)
    options.add("chips", "v5p,v6e", "of v5p, v6e, with commas")
    options.add_argument("--sweep", action="store_true", help="our kernels for many block sizes instead")
    options.add_argument("--case", help=argparse.SUPPRESS)
    return options.parse_args()


if __name__ == "__main__":
    main()
