"""Peak memory of the head's forward and backward on a CPU: ours in chunks, beside dense logits.

    python benchmarks/head_memory.py

The head turns hidden states [T, D] into log-probs and entropies of T trained positions, and their gradients
into gradients of the hidden states and of the weight [V, D]. Default: one row of 8,192 positions, all trained,
in float32, with the vocabulary and hidden size of Qwen3-0.6B. A [T, V] float32 array is then 4.64 GiB, and the
weight, and its gradient, which both heads return, 0.58 GiB each.

  chunked           models/head.py: no [T, V] array, forward or backward
  dense             log_softmax of all the logits, gather, entropy, and jax.grad of that; never run here, since
                    it holds four such arrays: its memory is what XLA plans for it
  dense_recomputed  the same under jax.checkpoint, so that only the logits are kept from forward to backward;
                    it holds three, and is the leanest of the dense ones tried. It is compiled without the
                    library that XLA reduces with by default, which holds more of them beside XLA's plan

dense_over_chunked is dense_recomputed's measured peak by ours. A peak is the highest resident size of a
process of its own while it takes steps, less what was resident before the first one: the inputs, everything
imported and the compiled step are left out, the gradients are in. (XLA's own plan, beside it, leaves out what
the libraries that it calls allocate.) dense_over_chunked_temporary leaves the outputs out, too. Both heads must
agree in the loss and in samples of both gradients, and ours must not have a [T, V] array in its compiled program.

Left out: accelerators, bfloat16, more than one device, and positions that are not trained, which ours skips.
Needs Linux (the highest resident size is reset through /proc).
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import gc
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from measuring import Options, forget_peak, peak_bytes
from results import device, finish, table

from mirothinker_jax.models.head import logprobs_and_entropy

AGREE = 1e-4  # of the largest magnitude, in float32
GIB = 2**30
LEAN = "--xla_cpu_experimental_ynn_fusion_type=-LIBRARY_FUSION_TYPE_REDUCE"


@dataclasses.dataclass(frozen=True)
class Setting:
    positions: int
    vocab: int
    hidden: int
    threads: int
    steps: int
    seed: int


def of_logits(logits: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    logs = jax.nn.log_softmax(logits)
    logprobs = jnp.take_along_axis(logs, targets[:, None], -1)[:, 0]
    return logprobs, -(jnp.exp(logs) * logs).sum(-1)


def dense(hidden, weight, targets, wanted, *, over: Callable = of_logits):
    # Without the row's axis, which costs XLA an array more.
    logprobs, entropies = over(hidden[0] @ weight.T, targets[0])
    return jnp.where(wanted, logprobs[None], 0.0), jnp.where(wanted, entropies[None], 0.0)


def dense_recomputed(hidden, weight, targets, wanted):
    return dense(hidden, weight, targets, wanted, over=jax.checkpoint(of_logits))


HEADS = {"chunked": logprobs_and_entropy, "dense_recomputed": dense_recomputed, "dense": dense}


def compile_step(name: str, s: Setting) -> Any:
    """(hidden, weight, targets, wanted, cotangents) → (loss, (gradient of hidden, gradient of weight))."""

    def loss(hidden, weight, targets, wanted, cotangents):
        logprobs, entropies = HEADS[name](hidden, weight, targets, wanted)
        return (cotangents[0] * logprobs + cotangents[1] * entropies).sum()

    row, floats = (1, s.positions), jnp.float32
    shapes = (
        jax.ShapeDtypeStruct((*row, s.hidden), floats),
        jax.ShapeDtypeStruct((s.vocab, s.hidden), floats),
        jax.ShapeDtypeStruct(row, jnp.int32),
        jax.ShapeDtypeStruct(row, jnp.bool_),
        jax.ShapeDtypeStruct((2, *row), floats),
    )
    if name == "dense_recomputed":
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {LEAN}"  # of this process, not yet read
    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(*shapes).compile()


def planned(name: str, s: Setting) -> dict[str, int]:
    """What XLA plans to allocate, in bytes; runs in a process of its own, as `measured` does."""
    compiled = compile_step(name, s)
    memory, logits = compiled.memory_analysis(), f"f32[{s.positions},{s.vocab}]"
    if name == "chunked" and logits in compiled.as_text():
        raise SystemExit(f"chunked: {logits} in its program; are {s.positions} positions less than a chunk?")
    return {
        "xla_temporary_bytes": memory.temp_size_in_bytes,
        "output_bytes": memory.output_size_in_bytes,
        "input_bytes": memory.argument_size_in_bytes,
    }


def measured(name: str, s: Setting) -> dict[str, Any]:
    step, arguments = compile_step(name, s), make_inputs(s)
    gc.collect()
    before = forget_peak()
    seconds, cpu_seconds, out = [], [], None
    for _ in range(s.steps):
        out = None  # the gradients of the step before are not this one's
        begun, worked = time.perf_counter(), time.process_time()
        out = jax.block_until_ready(step(*arguments))
        seconds.append(time.perf_counter() - begun)
        cpu_seconds.append(time.process_time() - worked)
    peak = peak_bytes() - before
    assert out is not None
    loss, (d_hidden, d_weight) = out
    # Every 64th position, and as many of the vocabulary's rows: those with a target among them, and others.
    some = np.concatenate([np.asarray(arguments[2])[0, ::64], np.arange(0, s.vocab, s.vocab // 64)])
    samples = {"loss": loss, "d_hidden": d_hidden[0, ::64], "d_weight": d_weight[some]}
    return {
        "peak_bytes": peak,
        "resident_before_bytes": before,
        "step_s": statistics.median(seconds),
        "step_cpu_s": statistics.median(cpu_seconds),
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "samples": {key: np.asarray(value) for key, value in samples.items()},
    }


def make_inputs(s: Setting) -> list[jax.Array]:
    """Logits have a standard deviation near 1; the loss is a mean, with an entropy bonus of 0.01."""
    rng = np.random.default_rng(s.seed)
    hidden = rng.standard_normal((1, s.positions, s.hidden), np.float32)
    weight = rng.standard_normal((s.vocab, s.hidden), np.float32)
    weight *= np.float32(s.hidden**-0.5)
    targets = rng.integers(0, s.vocab, (1, s.positions)).astype(np.int32)
    cotangents = np.full((2, 1, s.positions), -1 / s.positions, np.float32)
    cotangents[1] *= 0.01
    arrays = (hidden, weight, targets, np.ones(targets.shape, bool), cotangents)
    return jax.block_until_ready([jnp.array(x) for x in arrays])


def in_a_process(work: Callable, name: str, s: Setting) -> dict[str, Any]:
    spawn = multiprocessing.get_context("spawn")
    try:
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
            return pool.submit(work, name, s).result()
    except concurrent.futures.process.BrokenProcessPool:
        raise SystemExit(
            f"{name}: its process died, of lack of memory if nothing is said above; fewer --positions"
        ) from None


def main() -> None:
    options = arguments()
    s = Setting(**vars(options))
    jax.config.update("jax_platforms", "cpu")
    os.environ["JAX_PLATFORMS"] = "cpu"  # inherited, as the cores are
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: s.threads])
    found = {name: in_a_process(planned, name, s) for name in HEADS}
    check_fits("dense_recomputed", found["dense_recomputed"])
    for name in ("chunked", "dense_recomputed"):
        print(f"{name}: {s.steps} steps", flush=True)
        found[name] |= in_a_process(measured, name, s)
    worst = difference(found["chunked"].pop("samples"), found["dense_recomputed"].pop("samples"))
    report(s, found, worst)


def check_fits(name: str, plan: dict[str, int]) -> None:
    """Refuses, rather than being killed after minutes."""
    needs = sum(plan.values())
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:") and needs > (free := int(line.split()[1]) * 1024):
            raise SystemExit(
                f"{name} takes about {needs / GIB:.1f} GiB and {free / GIB:.1f} GiB are free; fewer --positions"
            )


def difference(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> dict[str, float]:
    worst = {key: float(abs(ours[key] - b).max() / abs(b).max()) for key, b in theirs.items()}
    if not all(part <= AGREE for part in worst.values()):  # NaN included
        raise SystemExit(f"the heads disagree by more than {AGREE}: {worst}")
    return worst


def report(s: Setting, found: dict[str, dict[str, Any]], worst: dict[str, float]) -> None:
    ours, theirs = found["chunked"], found["dense_recomputed"]
    left = {name: f["peak_bytes"] - f["output_bytes"] for name, f in found.items() if "peak_bytes" in f}
    planned_bytes = {name: f["xla_temporary_bytes"] + f["output_bytes"] for name, f in found.items()}
    ratios = {
        "dense_over_chunked": theirs["peak_bytes"] / ours["peak_bytes"],
        "dense_over_chunked_temporary": left["dense_recomputed"] / left["chunked"],
        "planned_dense_recomputed_over_chunked": planned_bytes["dense_recomputed"] / planned_bytes["chunked"],
        "planned_dense_over_chunked": planned_bytes["dense"] / planned_bytes["chunked"],
        "time_of_chunked_over_dense": ours["step_s"] / theirs["step_s"],
        "cpu_time_of_chunked_over_dense": ours["step_cpu_s"] / theirs["step_cpu_s"],
    }
    gib = [(key, GIB, 2) for key in ("peak_bytes", "xla_temporary_bytes", "output_bytes", "input_bytes")]
    columns = (*gib, ("step_s", 1, 1), ("step_cpu_s", 1, 1))
    rows = [
        (name, *(f"{f[key] / unit:.{digits}f}" if key in f else "–" for key, unit, digits in columns))
        for name, f in found.items()
    ]
    print(f"\n{s.positions:,} positions, {s.vocab:,} tokens, hidden {s.hidden:,}, {s.threads} threads; GiB")
    print(table(("", "peak", "XLA's temporary", "outputs", "inputs", "step s", "CPU s"), rows))
    print({name: round(ratio, 2) for name, ratio in ratios.items()})
    figures = ratios | {
        "chunked_peak_gib": ours["peak_bytes"] / GIB,
        "dense_peak_gib": theirs["peak_bytes"] / GIB,
        "largest_relative_difference": worst,
        "setting": dataclasses.asdict(s),
        "heads": found,
        "device": device(),
        "versions": {"python": sys.version.split()[0], "jax": jax.__version__, "numpy": np.__version__},
    }
    finish("head_memory", figures)


def arguments() -> argparse.Namespace:
    options = Options(__doc__)
    options.add("positions", 8192, "tokens of the row, all trained; a dense head's memory grows with them")
    options.add("vocab", 151_936, "tokens that the head knows")
    options.add(
        "hidden", 1024, "size of a hidden state; the weight's gradient, which both return, grows with it"
    )
    options.add("threads", 2, "cores, and threads")
    options.add("steps", 2, "timed steps of each")
    options.add("seed", 0, "of weights and tokens")
    return options.parse_args()


if __name__ == "__main__":
    main()
