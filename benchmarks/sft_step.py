"""One step of supervised fine-tuning on a CPU, beside transformers on PyTorch and google-tunix.

    python benchmarks/sft_step.py --transformers-python VENV/bin/python --tunix-python VENV/bin/python

A step is forward, backward, clipping and AdamW in float32, of a Qwen3 of about 30 million parameters on the
same batch: four full rows of 1,024 tokens, 35% of them trained, which is what an agent's trajectories look like
(the rest is what its tools answered). The vocabulary is 32,768 and the head tied: 12.6 of the 30 million
parameters, a larger share than in a large model, and ours leaves the head out where no token is trained: try
--trained-share 1 to see what that saves. Full rows rather than packed ones, since there the others are
fastest: attention is then plainly causal.

Each system is a process of its own, in an environment of its own, with the same weights, the same cores and
as many threads. The first steps, which compile, must agree in their losses to 1e-4; then the systems take
turns, a few steps at a time, so that a busy machine is busy for all of them. Time is the median step; memory
is the process's highest resident size, with all that it imported, compiled and loaded.

Left out: bfloat16, gradient accumulation, more than one device.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from measuring import Options, Process, interpreter
from results import device, finish, table
from sft_systems.work import Setting, write_work

SYSTEMS = Path(__file__).with_name("sft_systems")
WARMUP_STEPS = 3
AGREE = 1e-4  # nats


class System:
    """A system's process, asked for steps."""

    def __init__(self, name: str, process: Process):
        self.name, self._process, self.about = name, process, process.about
        self.seconds, self.cpu_seconds, self.peak_bytes = [], [], 0

    def steps(self, count: int) -> dict[str, Any]:
        answer = self._process.ask(str(count))
        self.peak_bytes = answer["peak_bytes"]
        return answer

    def timed_steps(self, count: int) -> None:
        answer = self.steps(count)
        self.seconds += answer["seconds"]
        self.cpu_seconds += answer["cpu_seconds"]

    def figures(self) -> dict[str, Any]:
        return {
            "step_s": statistics.median(self.seconds),
            "fastest_step_s": min(self.seconds),
            "step_cpu_s": statistics.median(self.cpu_seconds),
            "peak_bytes": self.peak_bytes,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            **self.about,
        }


def main() -> None:
    options = arguments()
    cores = sorted(os.sched_getaffinity(0))[: options.threads]
    os.sched_setaffinity(0, cores)  # inherited by the systems
    shape = {f.name for f in dataclasses.fields(Setting)}
    setting = Setting(**{name: value for name, value in vars(options).items() if name in shape})
    pythons = {
        "ours": sys.executable,
        "with_transformers": options.transformers_python or interpreter("torch", "transformers"),
        "with_tunix": options.tunix_python or interpreter("tunix"),
    }
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        parameters = write_work(Path(folder), setting)
        systems = []
        for name, python in pythons.items():
            if python is None:
                print(f"{name}: left out, not installed here (--{name.removeprefix('with_')}-python)")
                continue
            print(f"{name}: compiling", flush=True)
            process = Process(python, SYSTEMS / f"{name}.py", folder, options.threads)
            system = System(name, stack.enter_context(process))
            systems.append(system)
            check(system.name, system.steps(WARMUP_STEPS)["losses"], systems[0])
        for block in range(options.blocks):
            print(f"block {block + 1} of {options.blocks}: {options.steps} steps of each", flush=True)
            for system in systems:
                system.timed_steps(options.steps)
        found = {system.name: system.figures() for system in systems}
    report(setting, parameters, found)


def check(name: str, losses: list[float], first: System) -> None:
    """The losses of the first steps, which depend on all of forward, backward and update, are ours."""
    first.about.setdefault("first_losses", losses)
    worst = max(abs(a - b) for a, b in zip(losses, first.about["first_losses"], strict=True))
    if not worst <= AGREE:
        raise SystemExit(f"{name}: losses {losses} differ from ours by {worst:.1e}, more than {AGREE}")


def report(setting: Setting, parameters: int, found: dict[str, dict[str, Any]]) -> None:
    """Prints the table and keeps the figures. A ratio below 1: ours is faster, or smaller."""
    ours, ratios = found["ours"], {}
    for peer in ("transformers", "tunix"):
        theirs = found.get(f"with_{peer}")
        ratios[f"time_vs_{peer}"] = theirs and ours["step_s"] / theirs["step_s"]
        ratios[f"memory_vs_{peer}"] = theirs and ours["peak_bytes"] / theirs["peak_bytes"]
    tokens = setting.rows * setting.tokens
    rows = [
        (
            name,
            f"{f['step_s']:.2f}",
            f"{f['fastest_step_s']:.2f}",
            f"{f['step_cpu_s']:.2f}",
            f"{tokens / f['step_s']:,.0f}",
            f"{f['resident_before_bytes'] / 2**30:.2f}",
            f"{f['peak_bytes'] / 2**30:.2f}",
        )
        for name, f in found.items()
    ]
    print(f"\n{parameters / 1e6:.1f}M parameters, {tokens:,} tokens a step, {setting.threads} threads")
    print(table(("", "step s", "fastest", "CPU s", "tokens/s", "GiB before", "GiB peak"), rows))
    print({name: ratio and round(ratio, 3) for name, ratio in ratios.items()})
    figures = ratios | {
        "parameters": parameters,
        "setting": dataclasses.asdict(setting),
        "systems": found,
        "device": device(),
        "versions": {"python": sys.version.split()[0]} | ours["versions"],
    }
    finish("sft_step", figures)


def arguments() -> argparse.Namespace:
    options = Options(__doc__)
    options.add("rows", 4, "rows of the batch")
    options.add("tokens", 1024, "tokens of a row")
    options.add("trained-share", 0.35, "share of the tokens that the loss is on")
    options.add("vocab", 32_768, "vocabulary; the head is tied")
    options.add("hidden", 384, "size of the residual stream")
    options.add("layers", 8, "decoder blocks")
    options.add("heads", 6, "query heads")
    options.add("kv-heads", 2, "key/value heads")
    options.add("head-dim", 64, "size of a head")
    options.add("ffn", 1536, "inner size of the feed-forward block")
    options.add("threads", 2, "cores, and threads, of each system")
    options.add("remat", "dots", "what ours recomputes: none, full or dots; the others recompute nothing")
    options.add("seed", 0, "of weights and tokens")
    options.add("steps", 3, "timed steps of each system in a block")
    options.add("blocks", 3, "how often the systems take turns")
    options.add(
        "transformers-python", "", "interpreter with torch and transformers; the running one if it has them"
    )
    options.add("tunix-python", "", "interpreter with google-tunix; the running one if it has it")
    return options.parse_args()


if __name__ == "__main__":
    main()
