"""A training step on one GPU: ours with each rematerialisation policy, beside transformers on PyTorch.

    python benchmarks/gpu_step.py --transformers-python VENV/bin/python          (on the GPU's machine)
    python benchmarks/gpu_step.py --model qwen3-8b --lora-rank 16 --tokens 32768 --transformers-python none

A step of supervised fine-tuning, as the training loop makes it: forward, backward, clipping and AdamW, of a published
size with random weights, on one full row of random tokens, all trained. The whole model is in float32 with bfloat16
products, as in configs/mirothinker_v1_*; with --lora-rank, adapters train on a model in bfloat16. transformers trains
the same size on as many tokens: float32 with autocast to bfloat16, sdpa attention (plainly causal, which is its fast
path), every layer recomputed in the backward pass, fused AdamW. Its first loss must be near ours (both models are
random, and about as wrong as guessing). benchmarks/sft_step.py checks that the two compute the same.

Each is a process of its own, one after the other, since each wants the GPU's memory. Time is the median step; memory is
the allocator's highest. Useful flops are those of `plan`: nothing counts twice for being recomputed.

Left out: packed rows, several GPUs, what feeds a step.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measuring import Options
from results import device, finish, table

PEAK_TFLOP_S = {"NVIDIA H100 80GB HBM3": 989.4, "NVIDIA H200": 989.4}  # bfloat16, dense, by the data sheets
NEAR = 1.0  # nats, of the first losses
PEER = "transformers"


def main() -> None:
    options = arguments()
    if options.system:
        serve(options)
        return
    python = options.transformers_python or sys.executable
    systems = [(remat, sys.executable) for remat in options.remat.split(",")]
    if python != "none" and not options.lora_rank:
        systems.append((PEER, python))
    found: dict[str, dict[str, Any]] = {}
    for name, interpreter in systems:
        command = [interpreter, str(Path(__file__)), *sys.argv[1:], "--system", name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{name}: {last_line(done.stderr)}", flush=True)
            continue
        found[name] = json.loads(done.stdout.splitlines()[-1])
        print(f"{name}: {found[name]['step_s']:.3f} s", flush=True)
    if not found:
        raise SystemExit("nothing ran; the reasons are above")
    report(options, found)


def last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if "RESOURCE_EXHAUSTED" in line or "Error" in line]
    return (lines or text.splitlines() or ["no message"])[-1][:300]


def serve(o: argparse.Namespace) -> None:
    """Takes the steps, and prints what they gave as a line of JSON."""
    step, peak_bytes, about = (torch_step if o.system == PEER else our_step)(o)
    losses, taken = [], []
    for _ in range(2 + o.steps):  # two to warm up
        begun = time.perf_counter()
        losses.append(step())
        taken.append(time.perf_counter() - begun)
    figures = {"step_s": statistics.median(taken[2:]), "seconds": taken[2:], "peak_bytes": peak_bytes()}
    sys.stdout.write(json.dumps({**figures, "first_losses": losses[:2], **about}) + "\n")


def our_config(o: argparse.Namespace) -> Any:
    from mirothinker_jax.config import Config, default
    from mirothinker_jax.config_tree import build
    from mirothinker_jax.models.presets import use

    c = default()
    use(c, o.model)
    c.model.param_dtype, c.model.compute_dtype = "bfloat16" if o.lora_rank else "float32", "bfloat16"
    c.model.remat = "full" if o.system in ("", PEER) else o.system
    c.model.lora.rank, c.model.init_from = (
        o.lora_rank,
        "random",
    )  # a config with adapters must name what they adapt
    return build(Config, c).model


def our_step(o: argparse.Namespace) -> tuple[Callable[[], float], Callable[[], int], dict[str, Any]]:
    import jax
    import numpy as np

    from mirothinker_jax.config import MeshConfig, OptimizerConfig
    from mirothinker_jax.data.packing import Sample, pack_rows
    from mirothinker_jax.models.spec import ModelSpec
    from mirothinker_jax.objectives.sft import sft
    from mirothinker_jax.parallel.mesh import make_mesh
    from mirothinker_jax.parallel.placement import to_global
    from mirothinker_jax.trainer.optimizer import make_optimizer
    from mirothinker_jax.trainer.state import init_state
    from mirothinker_jax.trainer.step import make_step

    config = our_config(o)
    model = ModelSpec.build(config, config.vocab_size, make_mesh(MeshConfig()))
    settings = OptimizerConfig(learning_rate=1e-4, schedule="constant", warmup_fraction=0.0)
    optimizer = make_optimizer(settings, 1)
    tokens = np.random.default_rng(o.seed).integers(0, config.vocab_size, o.tokens).astype(np.int32)
    batch = pack_rows([Sample(tokens, np.ones(o.tokens, bool))], o.tokens)
    with jax.set_mesh(model.mesh):
        state = init_state(model, optimizer, model.init(o.seed))
        placed, used = to_global(model.mesh, batch, 1, 1)
        begun = time.perf_counter()
        train = make_step(model, sft, optimizer).lower(state, placed, used).compile()  # pyright: ignore
        compile_s = time.perf_counter() - begun

    def step() -> float:
        nonlocal state
        with jax.set_mesh(model.mesh):
            state, figures = train(state, placed, used)
        return float(jax.block_until_ready((figures, state))[0]["loss"])

    gpu, sizes = jax.devices()[0], train.memory_analysis()
    about = {
        "gpu": gpu.device_kind,
        "compile_s": compile_s,
        "xla_temporary_bytes": sizes.temp_size_in_bytes,
        "host_bytes": sizes.host_temp_size_in_bytes,
        "versions": {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax")},
    }
    return step, lambda: gpu.memory_stats()["peak_bytes_in_use"], about


def torch_step(o: argparse.Namespace) -> tuple[Callable[[], float], Callable[[], int], dict[str, Any]]:
    import torch  # pyright: ignore[reportMissingImports]
    import transformers  # pyright: ignore[reportMissingImports]

    ours = our_config(o)
    torch.manual_seed(o.seed)
    config = transformers.Qwen3Config(
        vocab_size=ours.vocab_size,
        hidden_size=ours.hidden,
        intermediate_size=ours.ffn,
        num_hidden_layers=ours.layers,
        num_attention_heads=ours.heads,
        num_key_value_heads=ours.kv_heads,
        head_dim=ours.head_dim,
        max_position_embeddings=o.tokens,
        rms_norm_eps=ours.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": ours.rope_theta},
        tie_word_embeddings=ours.tied_head,
        attn_implementation="sdpa",  # pyright: ignore[reportCallIssue]
        use_cache=False,
        dtype=torch.float32,
    )
    with torch.device("cuda"):
        model = transformers.Qwen3ForCausalLM(config)
    model.train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    tokens = torch.randint(0, ours.vocab_size, (1, o.tokens), device="cuda")

    def step() -> float:
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
    return step, torch.cuda.max_memory_allocated, {"versions": versions}


def report(o: argparse.Namespace, found: dict[str, dict[str, Any]]) -> None:
    from mirothinker_jax.planning.arithmetic import useful_flops

    flops = useful_flops(our_config(o), o.tokens, 1)
    kind = next((f["gpu"] for f in found.values() if "gpu" in f), "")
    peak = PEAK_TFLOP_S.get(kind)
    for figures in found.values():
        figures["tflop_s"] = flops / figures["step_s"] / 1e12
        figures["mfu"] = peak and figures["tflop_s"] / peak
    first = [f["first_losses"][0] for f in found.values()]
    if max(first) - min(first) > NEAR:
        raise SystemExit(f"the first losses, {first}, are more than {NEAR} apart")
    rows = [
        (
            name,
            f"{f['step_s']:.3f}",
            f"{o.tokens / f['step_s']:,.0f}",
            f"{f['mfu']:.1%}" if f["mfu"] else "-",
            f"{f['peak_bytes'] / 2**30:.1f}",
            f"{f.get('host_bytes', 0) / 2**30:.1f}",
        )
        for name, f in found.items()
    ]
    print(f"\n{o.model}, {o.tokens:,} tokens" + (f", adapters of rank {o.lora_rank}" if o.lora_rank else ""))
    print(table(("", "step s", "tokens/s", "MFU", "GiB", "of the host"), rows))
    theirs, fastest = found.get(PEER), min(f["step_s"] for n, f in found.items() if n != PEER)
    figures = {
        "time_vs_transformers": theirs and fastest / theirs["step_s"],
        "setting": {k: v for k, v in vars(o).items() if k not in ("system", "transformers_python")},
        "systems": found,
        "device": {"gpu": kind, **device()},
    }
    finish("-".join(["gpu_step", o.model, str(o.tokens), *(["lora"] if o.lora_rank else [])]), figures)


def arguments() -> argparse.Namespace:
    options = Options(__doc__)
    options.add("model", "qwen3-1.7b", "a preset of models/presets.py")
    options.add("tokens", 8192, "of the row")
    options.add("lora-rank", 0, "of the adapters; 0: the whole model is trained")
    options.add("remat", "offload,attention,full,offload-all", "ours, with commas")
    options.add("steps", 3, "timed")
    options.add("seed", 0, "of weights and tokens")
    options.add(
        "transformers-python", "", "interpreter with torch and transformers (the running one); none: without"
    )
    options.add("system", "", "for its own use: the process of one system")
    return options.parse_args()


if __name__ == "__main__":
    main()
