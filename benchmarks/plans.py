"""The smallest slice of each generation of TPUs that takes a stage's training step, by `mirothinker_jax.plan --sweep`.

    pip install -e '.[tpu]'        (no TPU needed)
    python benchmarks/plans.py --chips v5p,v4
    python benchmarks/plans.py --chips v5e,v6e,tpu7x --quick 1 --jobs 2

{8B, 30B-A3B, 72B, 235B-A22B} × {SFT, DPO, GRPO} × {32K, 256K tokens} of configs/mirothinker: each slice that the
rule of thumb does not exclude is compiled for, smallest first, with the meshes that --sweep tries, until the compiler
finds room, and the host. What waits for the backward pass waits there (`model.remat = "offload-all"`). A plan takes
minutes; each is kept in benchmarks/results/plans.json when it is done, so that it can be stopped at any time. Those
that are there, of the same settings and versions of jax and libtpu, are not made again, and others stay until they are
(a change of our own code is not noticed: take the cells that it concerns out of the file). With --quick the compiler
makes the least effort: one or two minutes for a slice, and no times; where that comes near to what there is, it is done
again with all effort. At the end they are printed as a table, which docs/notes/plans.md has. DPO's rows hold a pair,
and are twice as long. A step of SFT at 32K has as many rows as v0.1's had, 128. Sampling for DPO and GRPO is not in it
(it is left to servers; docs/notes/plans.md has what it takes).
"""

from __future__ import annotations

import argparse
import concurrent.futures
import importlib.metadata
import itertools
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

from measuring import Options
from results import FOLDER

from mirothinker_jax.config import STAGES
from mirothinker_jax.data.atomic import replacing
from mirothinker_jax.plan import DOES_NOT_FIT
from mirothinker_jax.planning.chips import TPUS

ROOT = Path(__file__).parents[1]
KEPT = FOLDER / "plans.json"
MODELS = {
    "8B": "8b",
    "30B-A3B": "30b",
    "72B": "72b",
    "235B-A22B": "235b",
}
LENGTHS = {"32K": 32_768, "256K": 262_144}
FIGURES = (
    *("topology", "mesh", "fits", "sure", "peak_gib_per_device", "peak_is_bound", "hbm_gib_per_device"),
    *("host_gib_per_device", "compile_s", "step_s_estimate", "mfu_estimate", "quick"),
)
# The training step alone: nothing is sampled on its devices.
SERVERS = ("--config.rollout.engine=remote", "--config.rollout.urls=http://localhost:8000")


class Cell(NamedTuple):
    model: str
    stage: str
    tokens: str
    chip: str

    @property
    def name(self) -> str:
        return " ".join(self)

    @property
    def options(self) -> list[str]:
        """Of `plan`, that say which step it is."""
        tokens = LENGTHS[self.tokens]
        settings = {
            "agent.context_tokens": tokens,
            f"{self.stage}.training.sequence_length": tokens * (2 if self.stage == "dpo" else 1),
            "model.remat": "offload-all",
        }
        if self.tokens == "32K" and self.stage == "sft":
            settings["sft.training.batch_size"] = 128
        file = f"configs/mirothinker/{self.stage}.py:{MODELS[self.model]}"
        return ["--config", file, *(f"--config.{key}={value}" for key, value in settings.items())]


def plan(cell: Cell, quick: bool) -> dict[str, Any]:
    """The figures of the last slice tried; of none where `plan` says that none comes near.

    Raises RuntimeError with what `plan` says where it breaks.
    """
    try:
        found = run([*cell.options, "--sweep", "--topology", cell.chip, *(["--quick"] if quick else [])])
    except RuntimeError as error:
        if "comes near to what" not in str(error):
            raise
        return {"fits": False, "quick": quick}
    return plan(cell, quick=False) if unsure(found) else found


def run(arguments: list[str]) -> dict[str, Any]:
    """FIGURES of `plan` with these arguments. Raises RuntimeError with what it says where it has none."""
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "plan.json"
        command = [sys.executable, "-m", "mirothinker_jax.plan", "--json", str(figures), *arguments, *SERVERS]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode not in (0, DOES_NOT_FIT):
            raise RuntimeError(f"exit status {done.returncode}: {done.stderr[-500:]}")
        found = json.loads(figures.read_text())
    return {key: found[key] for key in FIGURES}


def versions() -> dict[str, str]:
    """What a plan depends on besides our own code."""
    try:
        return {name: importlib.metadata.version(name) for name in ("jax", "libtpu")}
    except importlib.metadata.PackageNotFoundError:
        raise SystemExit("libtpu is not installed: pip install -e '.[tpu]' (no TPU needed)") from None


def unsure(figures: dict[str, Any]) -> bool:
    """Whether it fits by a quick plan, and may not by one of all effort."""
    return figures["fits"] and not figures["sure"]


def table(kept: dict[str, Any], chips: list[str]) -> str:
    """Markdown: a row for each model, stage and length, a column for each generation."""
    lines = [f"| model | stage | tokens | {' | '.join(chips)} |", "| --- " * (3 + len(chips)) + "|"]
    for row in itertools.product(MODELS, STAGES, LENGTHS):
        cells = [text(kept.get(Cell(*row, chip).name)) for chip in chips]
        if any(cells):
            lines.append(f"| {' | '.join((row[0], row[1].upper(), row[2], *cells))} |")
    return "\n".join(lines)


def text(figures: dict[str, Any] | None) -> str:
    if figures is None:
        return ""
    if not figures["fits"]:
        return "none"
    size = figures["topology"].partition(":")[2]
    mesh, gib = mesh_of(figures), f"{size_of(figures)} GiB"
    if figures["quick"]:
        return f"{size}: {mesh}; {'perhaps' if unsure(figures) else 'about'} {gib}"
    return f"{size}: {mesh}; {gib}, {figures['step_s_estimate']:,.0f} s, {figures['mfu_estimate']:.0%}"


def mesh_of(figures: dict[str, Any]) -> str:
    return ", ".join(f"{axis} {n}" for axis, n in figures["mesh"].items() if n > 1)


def size_of(figures: dict[str, Any]) -> str:
    """GiB of a device."""
    return f"{'≤ ' if figures['peak_is_bound'] else ''}{figures['peak_gib_per_device']:.1f}"


def main() -> None:
    options = arguments()
    chips, models = options.chips.split(","), options.models.split(",")
    for name, given, known in (("chips", chips, TPUS), ("models", models, MODELS)):
        if unknown := set(given) - set(known):
            raise SystemExit(f"--{name}: {', '.join(sorted(unknown))} is not one of {', '.join(known)}")
    if options.jobs < 1:
        raise SystemExit(f"--jobs {options.jobs}: at least 1")
    made_by = versions()
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    cells = [Cell(*c) for c in itertools.product(models, STAGES, LENGTHS, chips)]
    made_of = {cell.name: {"versions": made_by, "options": cell.options} for cell in cells}
    quick = bool(options.quick)
    if quick and "v4" in chips:
        raise SystemExit(
            "--quick 1: a v4's compiler aborts when it makes the least effort; leave v4 out of --chips"
        )

    def enough(cell: Cell) -> bool:
        figures = kept.get(cell.name, {})
        same = made_of[cell.name].items() <= figures.items()
        return same and figures["quick"] <= quick and not unsure(figures)

    left = [cell for cell in cells if not enough(cell)]
    lock, begun, done, failed = threading.Lock(), time.monotonic(), 0, []

    def work(cell: Cell) -> None:
        nonlocal done
        near = cell.name in kept and unsure(kept[cell.name])
        try:
            figures = plan(cell, quick and not near)
        except RuntimeError as error:
            print(f"{cell.name}: {error}", flush=True)
            failed.append(cell.name)
            return
        with lock:
            kept[cell.name] = figures | made_of[cell.name]
            with replacing(KEPT) as scratch:
                scratch.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
            done += 1
            rest = (time.monotonic() - begun) / done * (len(left) - done) / 60
            print(f"{done}/{len(left)} {cell.name}: {text(figures)}; {rest:.0f} min left", flush=True)

    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(work, left))
    print(table(kept, chips))
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def arguments() -> argparse.Namespace:
    options = Options(__doc__)
    options.add("chips", "v5p,v6e", f"of {', '.join(TPUS)}, with commas")
    options.add("models", ",".join(MODELS), "with commas")
    options.add("quick", 0, "1: with the least effort of the compiler, without times")
    options.add("jobs", 1, "plans at a time; each takes one or two cores and 5 GB")
    return options.parse_args()


if __name__ == "__main__":
    main()
