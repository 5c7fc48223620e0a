"""What every system of sft_step.py is given, and how it is driven: plain numpy, no framework.

A system is a process of its own, so that its peak memory is its own. It reads a folder with setting.json,
weights.npz and batch.npz, and then answers one line of JSON for each line on its standard input.
"""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Setting:
    """One step's size. The optimizer's numbers are those of a usual fine-tuning run."""

    rows: int
    tokens: int  # of a row
    trained_share: float
    vocab: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    threads: int
    remat: str  # what our own system recomputes
    seed: int = 0
    rope_theta: float = 1e6
    norm_eps: float = 1e-6
    learning_rate: float = 1e-4
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip_norm: float = 1.0


def make_batch(s: Setting) -> dict[str, Any]:
    """tokens int32 [B, T] and trained bool [B, T]: turns of an agent and of its tools take turns."""
    rng = np.random.default_rng(s.seed)
    tokens = rng.integers(0, s.vocab, (s.rows, s.tokens)).astype(np.int32)
    turn = 128  # a tool's answer, then the agent's thought and next call
    place = np.arange(s.tokens) % turn
    trained = np.broadcast_to(place >= round((1 - s.trained_share) * turn), tokens.shape)
    return {"tokens": tokens, "trained": trained}


def make_weights(s: Setting) -> dict[str, Any]:
    """Random float32 parameters by their path in our parameter tree, layers stacked in front."""
    rng = np.random.default_rng(s.seed + 1)
    n, d, e = s.layers, s.hidden, s.head_dim

    def normal(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) * 0.02).astype(np.float32)

    def ones(*shape: int) -> np.ndarray:
        return np.ones(shape, np.float32)

    return {
        "embedding": normal(s.vocab, d),
        "norm/weight": ones(d),
        "blocks/attention_norm/weight": ones(n, d),
        "blocks/mlp_norm/weight": ones(n, d),
        "blocks/attention/q/kernel": normal(n, d, s.heads, e),
        "blocks/attention/k/kernel": normal(n, d, s.kv_heads, e),
        "blocks/attention/v/kernel": normal(n, d, s.kv_heads, e),
        "blocks/attention/out/kernel": normal(n, s.heads, e, d),
        "blocks/attention/q_norm/weight": ones(n, e),
        "blocks/attention/k_norm/weight": ones(n, e),
        "blocks/mlp/gate/kernel": normal(n, d, s.ffn),
        "blocks/mlp/up/kernel": normal(n, d, s.ffn),
        "blocks/mlp/down/kernel": normal(n, s.ffn, d),
    }


def write_work(folder: Path, s: Setting) -> int:
    """Fills the folder; returns the number of parameters."""
    weights = make_weights(s)
    np.savez(folder / "weights.npz", allow_pickle=False, **weights)
    np.savez(folder / "batch.npz", allow_pickle=False, **make_batch(s))
    (folder / "setting.json").write_text(json.dumps(dataclasses.asdict(s)))
    return sum(w.size for w in weights.values())


def serve(system: Callable[[Setting, dict, dict], tuple[Callable[[], float], dict[str, Any]]]) -> None:
    """The main function of a system's process: `python SYSTEM.py FOLDER`.

    `system(setting, weights, batch)` returns its step, which trains once and returns the loss before the
    update when all of it is done, and what it has to say about itself. Each line N on standard input makes it
    take N steps and answer with their losses, seconds (by the clock, and of all its threads' work) and the
    process's peak memory so far.
    """
    folder = Path(sys.argv[1])
    setting = Setting(**json.loads((folder / "setting.json").read_text()))
    with np.load(folder / "weights.npz") as weights, np.load(folder / "batch.npz") as batch:
        step, about = system(setting, dict(weights), dict(batch))
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    _answer({"resident_before_bytes": resident, **about})
    for line in sys.stdin:
        losses, seconds, cpu_seconds = [], [], []
        for _ in range(int(line)):
            begun, worked = time.perf_counter(), time.process_time()
            losses.append(step())
            seconds.append(time.perf_counter() - begun)
            cpu_seconds.append(time.process_time() - worked)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        _answer({"losses": losses, "seconds": seconds, "cpu_seconds": cpu_seconds, "peak_bytes": peak})


def _answer(values: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()
