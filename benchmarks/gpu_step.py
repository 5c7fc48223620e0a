"""A training step on one GPU: ours with each rematerialisation policy, beside transformers on PyTorch.

    python benchmarks/gpu_step.py --transformers-python VENV/bin/python          (on the GPU's machine)
    python benchmarks/gpu_step.py --rows 4
    python benchmarks/gpu_step.py --model qwen3-8b --lora-rank 16 --tokens 32768

A step of supervised fine-tuning, as the training loop makes it: forward, backward, clipping and AdamW, of a published
size with random weights, on full rows of random tokens, each a micro-batch of its own; all weights are trained. The
whole model is in float32 with bfloat16 products, as in configs/mirothinker; with --lora-rank, adapters train on a
model in bfloat16. transformers trains the same size on as many rows: float32 with autocast to bfloat16, sdpa attention
(plainly causal, which is its fast path), every layer recomputed in the backward pass, fused AdamW. Its first loss must
be near ours (both models are random, and about as wrong as guessing); benchmarks/sft_step.py checks that the two
compute the same. With adapters it is left out.

Each is a process of its own, one after the other, since each wants the GPU's memory. Time is the median step; memory is
the allocator's highest. Useful flops are those of `plan`: nothing counts twice for being recomputed.

Left out: packed rows, several GPUs, what feeds a step.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from gpu_systems.work import Setting
from measuring import Options
from results import device, finish, table

from mirothinker_jax.config import Config, ConfigError, ModelConfig, default
from mirothinker_jax.config_tree import build
from mirothinker_jax.models.presets import use
from mirothinker_jax.planning.arithmetic import useful_flops

SYSTEMS = Path(__file__).with_name("gpu_systems")
PEAK_TFLOP_S = {"NVIDIA H100 80GB HBM3": 989.4, "NVIDIA H200": 989.4}  # bfloat16, dense, by the data sheets
NEAR = 1.0  # nats, of the first losses
PEER = "with_transformers"


def main() -> None:
    options = arguments()
    try:
        models = {
            remat: model_config(options.model, options.lora_rank, remat) for remat in options.remat.split(",")
        }
    except ConfigError as error:
        raise SystemExit(f"--model, --lora-rank or --remat: {error}") from None
    like = next(iter(models.values()))
    systems = [(remat, sys.executable, "ours", model) for remat, model in models.items()]
    if peer := peer_python(options, like):
        systems.append((PEER, peer, PEER, like))
    found: dict[str, dict[str, Any]] = {}
    for name, python, file, model in systems:
        setting = Setting(
            dataclasses.asdict(model), options.tokens, options.rows, options.steps, options.seed
        )
        command = [python, str(SYSTEMS / f"{file}.py"), json.dumps(dataclasses.asdict(setting))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{name}: {reason(done.stderr)}", flush=True)
            continue
        found[name] = json.loads(done.stdout.splitlines()[-1])
        print(f"{name}: {found[name]['step_s']:.3f} s", flush=True)
    if not found.keys() & models.keys():
        raise SystemExit("none of ours ran; the reasons are above")
    report(options, like, found)


def model_config(preset: str, lora_rank: int, remat: str) -> ModelConfig:
    c = default()
    use(c, preset)
    c.model.param_dtype, c.model.compute_dtype = "bfloat16" if lora_rank else "float32", "bfloat16"
    c.model.remat, c.model.lora.rank = remat, lora_rank
    c.model.init_from = "random"  # not read here; but adapters must say what they adapt
    return build(Config, c).model


def peer_python(o: argparse.Namespace, model: ModelConfig) -> str | None:
    """The peer's interpreter; None: without it."""
    given = o.transformers_python
    if model.lora.rank or model.moe.experts or not model.qk_norm:
        if given:
            raise SystemExit(
                "--transformers-python: it trains whole dense models of Qwen3 only; leave it out"
            )
        return None
    if given:
        return given
    if all(importlib.util.find_spec(name) for name in ("torch", "transformers")):
        return sys.executable
    print(f"{PEER}: left out, not installed here (--transformers-python)")
    return None


def reason(said: str) -> str:
    lines = [line for line in said.splitlines() if "RESOURCE_EXHAUSTED" in line or "Error" in line]
    return (lines or said.splitlines() or ["no message"])[-1][:300]


def report(o: argparse.Namespace, model: ModelConfig, found: dict[str, dict[str, Any]]) -> None:
    flops = useful_flops(model, o.tokens, o.rows)
    kind = next(iter(found.values()))["gpu"]
    peak = PEAK_TFLOP_S.get(kind)
    for figures in found.values():
        figures["tflop_s"] = flops / figures["step_s"] / 1e12
        figures["mfu"] = peak and figures["tflop_s"] / peak
    first = [f["first_losses"][0] for f in found.values()]
    if max(first) - min(first) > NEAR:
        raise SystemExit(f"the first losses, {first}, are more than {NEAR} apart")
    lines = [
        (
            name,
            f"{f['step_s']:.3f}",
            f"{o.rows * o.tokens / f['step_s']:,.0f}",
            f"{f['mfu']:.1%}" if f["mfu"] else "-",
            f"{f['peak_bytes'] / 2**30:.1f}",
            f"{f.get('host_bytes', 0) / 2**30:.1f}",
        )
        for name, f in found.items()
    ]
    adapters = f", adapters of rank {o.lora_rank}" if o.lora_rank else ""
    print(f"\n{o.model}, {o.rows} x {o.tokens:,} tokens{adapters}")
    print(table(("", "step s", "tokens/s", "MFU", "GiB", "of the host"), lines))
    theirs, fastest = found.get(PEER), min(f["step_s"] for n, f in found.items() if n != PEER)
    figures = {
        "time_vs_transformers": theirs and fastest / theirs["step_s"],
        "setting": {key: value for key, value in vars(o).items() if key != "transformers_python"},
        "systems": found,
        "device": {"gpu": kind, **device()},
    }
    rows = [f"{o.rows}x"] if o.rows > 1 else []
    lora = ["lora"] if o.lora_rank else []
    finish("-".join(["gpu_step", o.model, *rows, str(o.tokens), *lora]), figures)


def arguments() -> argparse.Namespace:
    options = Options(__doc__)
    options.add("model", "qwen3-1.7b", "a preset of models/presets.py")
    options.add("tokens", 8192, "of a row")
    options.add("rows", 1, "of a step, each a micro-batch")
    options.add("lora-rank", 0, "of the adapters; 0: the whole model is trained")
    options.add("remat", "attention,offload,full,offload-all", "ours, with commas")
    options.add("steps", 3, "timed")
    options.add("seed", 0, "of weights and tokens")
    options.add(
        "transformers-python", "", "interpreter with torch and transformers; the running one if it has them"
    )
    return options.parse_args()


if __name__ == "__main__":
    main()
