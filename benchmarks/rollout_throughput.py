"""The local engine beside transformers' generate, google-tunix's sampler and vLLM, on a CPU: requests of mixed length,
and episodes with tools.

    pip install -e ".[parity]"
    python benchmarks/rollout_throughput.py --tunix-python VENV/bin/python --vllm-python VENV/bin/python

All sample at temperature 1 from a Qwen3 decoder of 30M parameters in float32, on two cores. 32 requests come at once;
prompts have 16 to 256 tokens and answers 16 to 512, log-uniform, the same ones for all, and no token ends an answer.
transformers and tunix take them as one static batch, padded on the left, and sample until the longest answer is done:
neither has another way. vLLM batches continuously, as ours does. Tokens beyond an answer's length are not counted. Ours
returns the log-probability of each token twice, the others are not asked for any. Each system is a process of its own;
they take turns, and the median counts. Compiling is not in it. On a busy machine torch's threads wait for one another
by spinning: there, `--threads 1` and CPU-seconds are what to read.

The episodes have 20 turns each: a prompt, then a sampled turn and a tool's result in turn, every time with the whole
context. What is prefilled is compared with what is new: prompts and results.

Left out: accelerators, quantised caches, transformers' own continuous batching, end tokens.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any

from measuring import Options, Process, interpreter
from results import device, finish, table
from rollout_systems.work import Setting, requests

SYSTEMS = Path(__file__).with_name("rollout_systems")
PEERS = {"transformers": ("torch", "transformers"), "tunix": ("tunix",), "vllm": ("vllm",)}


def main() -> None:
    options = arguments()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])  # inherited by the systems
    setting = Setting(**{f.name: getattr(options, f.name) for f in dataclasses.fields(Setting)})
    pythons = {"ours": sys.executable} | {
        peer: getattr(options, f"{peer}_python") or interpreter(*modules) for peer, modules in PEERS.items()
    }
    with contextlib.ExitStack() as stack:
        systems: dict[str, Process] = {}
        for name, python in pythons.items():
            if python is None:
                print(f"{name}: left out, not installed here (--{name}-python)")
                continue
            print(f"{name}: starting", flush=True)
            script = SYSTEMS / ("ours.py" if name == "ours" else f"with_{name}.py")
            systems[name] = stack.enter_context(
                Process(python, script, json.dumps(dataclasses.asdict(setting)), options.threads)
            )
        taken = [
            {name: system.ask("batch") for name, system in systems.items()} for _ in range(options.rounds)
        ]
        prefilled, new = systems["ours"].ask("episodes")["result"]
        parameters = {system.about["parameters"] for system in systems.values()}
    assert len(parameters) == 1, f"different models: {parameters}"
    report(setting, taken, prefilled / new, parameters.pop())


def report(setting: Setting, taken: list[dict[str, Any]], prefilled_over_new: float, parameters: int) -> None:
    """Prints the table and keeps the figures. A ratio above 1: ours is faster."""
    tokens = sum(count for _, count in requests(setting))
    median = {
        name: {key: statistics.median(t[name][key] for t in taken) for key in ("seconds", "cpu_seconds")}
        for name in taken[0]
    }
    rows = [
        (name, f"{m['seconds']:.1f}", f"{m['cpu_seconds']:.1f}", f"{tokens / m['seconds']:.0f}")
        for name, m in median.items()
    ]
    print(table(("system", "seconds", "CPU-seconds", "tokens/s"), rows))
    figures: dict[str, Any] = {}
    for peer in PEERS:
        theirs, ours = median.get(peer), median["ours"]
        figures[f"vs_{peer}"] = theirs and round(theirs["seconds"] / ours["seconds"], 2)
        figures[f"vs_{peer}_cpu"] = theirs and round(theirs["cpu_seconds"] / ours["cpu_seconds"], 2)
    figures |= {
        "prefill_over_new_tokens": round(prefilled_over_new, 3),
        "tokens": tokens,
        "parameters": parameters,
        "systems": median,
        "setting": dataclasses.asdict(setting),
        "device": device(),
    }
    finish("rollout_throughput", figures)


def arguments() -> argparse.Namespace:
    options = Options(__doc__)
    options.add("requests", 32, "requests that come at once")
    options.add("episodes", 8, "episodes with tools")
    options.add("rounds", 1, "times that all take the requests, in turn")
    options.add("threads", 2, "cores")
    options.add("seed", 0, "of weights, prompts and lengths")
    for peer, modules in PEERS.items():
        options.add(f"{peer}-python", "", f"interpreter with {modules[-1]}; the running one if it has it")
    return options.parse_args()


if __name__ == "__main__":
    main()
