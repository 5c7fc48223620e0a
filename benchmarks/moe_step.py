"""One training step of a mixture of experts on a CPU: our routed blocks beside every expert on every token.

    python benchmarks/moe_step.py

The step is the training loop's own: forward, backward, clipping and AdamW in float32, of a Qwen3-MoE decoder with 32
experts of which 4 see a token (Qwen3-30B-A3B has 128 and 8), on full rows. The dense-masked reference is the same
model with kernels/grouped_matmul/reference.py in the place of the routed blocks: what XLA does for a ragged product
where it has no grouped one of its own, as on a CPU.

Each is a process of its own, on the same weights and tokens. Loss and gradient norm of the first step must agree to
1e-5 and 1e-3 of their size (a token between two experts may go to the other one, and later steps drift apart); then
they take turns. Time is the median step; memory is the process's highest resident size less what was resident before
the first step (weights and optimizer state are left out, all that a step allocates is in).

Left out: accelerators (a TPU has kernels of its own), bfloat16, more than one device.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import os
import statistics
import time
from multiprocessing.connection import Connection
from typing import Any

from measuring import Options, forget_peak, peak_bytes
from results import device, finish, table

SYSTEMS = ("routed", "dense_masked")
WARMUP_STEPS = 2
AGREE = (1e-5, 1e-3)  # loss, gradient norm: relative


@dataclasses.dataclass(frozen=True)
class Setting:
    rows: int
    tokens: int
    hidden: int
    layers: int
    experts: int
    experts_per_token: int
    expert_ffn: int
    vocab: int
    threads: int
    seed: int


def serve(name: str, s: Setting, pipe: Connection) -> None:
    """A system's process: for every number it is sent, takes so many steps and sends what they gave."""
    import jax
    import numpy as np
    from mirothinker_kernels.grouped_matmul import reference  # pyright: ignore[reportMissingImports]

    from mirothinker_jax.config import MeshConfig, ModelConfig, MoEConfig, OptimizerConfig
    from mirothinker_jax.data.packing import Sample, pack_rows
    from mirothinker_jax.models.spec import ModelSpec
    from mirothinker_jax.objectives.sft import sft
    from mirothinker_jax.parallel import experts
    from mirothinker_jax.parallel.mesh import make_mesh
    from mirothinker_jax.parallel.placement import to_global
    from mirothinker_jax.trainer.optimizer import make_optimizer
    from mirothinker_jax.trainer.state import init_state
    from mirothinker_jax.trainer.step import make_step

    if name == "dense_masked":

        def every(x, chosen, weights, gate, up, down):
            flat = lambda value: value.reshape(-1, value.shape[-1])  # noqa: E731
            return reference.dense_masked(flat(x), flat(chosen), flat(weights), gate, up, down).reshape(
                x.shape
            )

        experts._local = every
    moe = MoEConfig(
        experts=s.experts, experts_per_token=s.experts_per_token, expert_ffn=s.expert_ffn, norm_topk=True
    )
    config = ModelConfig(
        hidden=s.hidden, layers=s.layers, heads=4, kv_heads=2, head_dim=64, moe=moe, remat="none"
    )
    model = ModelSpec.build(config, s.vocab, make_mesh(MeshConfig()))
    settings = OptimizerConfig(learning_rate=1e-4, schedule="constant", warmup_fraction=0.0)
    optimizer = make_optimizer(settings, 1)
    rng = np.random.default_rng(s.seed)
    tokens = rng.integers(0, s.vocab, (s.rows, s.tokens)).astype(np.int32)
    batch = pack_rows([Sample(row, np.ones(s.tokens, bool)) for row in tokens], s.tokens)
    with jax.set_mesh(model.mesh):
        state = jax.block_until_ready(init_state(model, optimizer, model.init(s.seed)))
        placed, used = to_global(model.mesh, batch, s.rows, 1)
        step = make_step(model, sft, optimizer).lower(state, placed, used).compile()  # pyright: ignore
        before = forget_peak()
        while count := pipe.recv():
            seconds, checks = [], []
            for _ in range(count):
                begun = time.perf_counter()
                state, figures = jax.block_until_ready(step(state, placed, used))
                seconds.append(time.perf_counter() - begun)
                checks.append((float(figures["loss"]), float(figures["grad_norm"])))
            temporary = step.memory_analysis().temp_size_in_bytes
            pipe.send((seconds, checks, peak_bytes() - before, temporary))


def main() -> None:
    options = arguments()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])  # inherited
    os.environ["JAX_PLATFORMS"] = "cpu"
    setting = Setting(**{f.name: getattr(options, f.name) for f in dataclasses.fields(Setting)})
    context = multiprocessing.get_context("spawn")
    found: dict[str, dict[str, Any]] = {name: {"seconds": []} for name in SYSTEMS}
    pipes: dict[str, Connection] = {}
    for name in SYSTEMS:
        pipes[name], theirs = context.Pipe()
        context.Process(target=serve, args=(name, setting, theirs), daemon=True).start()
        print(f"{name}: compiling", flush=True)
        found[name]["loss_and_norm"] = asked(pipes[name], WARMUP_STEPS)[1][0]
    both = [found[name]["loss_and_norm"] for name in SYSTEMS]
    for ours, dense, most in zip(*both, AGREE, strict=True):
        if not abs(ours - dense) <= most * abs(dense):
            raise SystemExit(f"loss and gradient norm of the two, {both}, differ by more than {AGREE}")
    for block in range(options.blocks):
        print(f"block {block + 1} of {options.blocks}: {options.steps} steps of each", flush=True)
        for name in SYSTEMS:
            seconds, _, peak, temporary = asked(pipes[name], options.steps)
            found[name]["seconds"] += seconds
            found[name] |= {"peak_bytes": peak, "xla_temporary_bytes": temporary}
    for pipe in pipes.values():
        pipe.send(0)
    report(setting, found)


def asked(pipe: Connection, count: int) -> Any:
    pipe.send(count)
    try:
        return pipe.recv()
    except EOFError:
        raise SystemExit("a system's process ended; its error is above") from None


def report(s: Setting, found: dict[str, dict[str, Any]]) -> None:
    import importlib.metadata

    for figures in found.values():
        figures["step_s"] = statistics.median(figures["seconds"])
    rows = [
        (
            name,
            f"{f['step_s']:.2f}",
            f"{min(f['seconds']):.2f}",
            f"{f['peak_bytes'] / 2**30:.2f}",
            f"{f['xla_temporary_bytes'] / 2**30:.2f}",
        )
        for name, f in found.items()
    ]
    print(f"\n{s.rows * s.tokens:,} tokens a step, {s.experts_per_token} of {s.experts} experts")
    print(table(("", "step s", "fastest", "GiB peak", "GiB planned"), rows))
    ours, dense = (found[name] for name in SYSTEMS)
    figures = {
        "time_vs_dense": ours["step_s"] / dense["step_s"],
        "memory_vs_dense": ours["peak_bytes"] / dense["peak_bytes"],
        "setting": dataclasses.asdict(s),
        "systems": found,
        "device": device(),
        "versions": {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax")},
    }
    finish("moe_step", figures)


def arguments() -> argparse.Namespace:
    options = Options(__doc__)
    options.add("rows", 4, "rows of the batch")
    options.add("tokens", 512, "tokens of a row")
    options.add("hidden", 256, "size of the residual stream")
    options.add("layers", 4, "decoder blocks")
    options.add("experts", 32, "experts of a layer")
    options.add("experts-per-token", 4, "how many of them see a token")
    options.add("expert-ffn", 192, "inner size of an expert")
    options.add("vocab", 4096, "vocabulary; the head is tied")
    options.add("threads", 2, "cores of each system")
    options.add("seed", 0, "of weights and tokens")
    options.add("steps", 3, "timed steps of each system in a block")
    options.add("blocks", 3, "how often the systems take turns")
    return options.parse_args()


if __name__ == "__main__":
    main()
