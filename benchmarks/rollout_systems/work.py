"""What every system of rollout_throughput.py is given, and how it is driven: plain numpy, no framework.

A system is a process of its own, `python SYSTEM.py SETTING`, and answers one line of JSON for each line on its standard
input: the name of the work to do.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

VOCAB, HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, FFN = 8192, 512, 8, 8, 4, 64, 1536
CONTEXT = 2048
TURNS = 20  # of an episode


@dataclasses.dataclass(frozen=True)
class Setting:
    """How much there is to sample, and on how many cores."""

    requests: int
    episodes: int
    threads: int
    seed: int


def requests(s: Setting) -> list[tuple[list[int], int]]:
    """Prompts, and the number of tokens to sample after each."""
    rng = np.random.default_rng(s.seed)
    lengths = np.exp(rng.uniform(np.log([16, 16]), np.log([256, 512]), (s.requests, 2))).astype(int)
    return [(rng.integers(0, VOCAB, prompt).tolist(), int(answer)) for prompt, answer in lengths]


def serve(system: Callable[[Setting], tuple[Mapping[str, Callable[[], Any]], int]]) -> None:
    """The main function of a system's process. `system(setting)` returns its works by name, and the number of the
    model's parameters. What a work returns is part of the answer, beside its seconds by the clock and of all threads.
    """
    works, parameters = system(Setting(**json.loads(sys.argv[1])))
    _answer({"parameters": parameters})
    for line in sys.stdin:
        begun, used = time.perf_counter(), time.process_time()
        result = works[line.strip()]()
        seconds, cpu_seconds = time.perf_counter() - begun, time.process_time() - used
        _answer({"seconds": seconds, "cpu_seconds": cpu_seconds, "result": result})


def _answer(values: dict[str, Any]) -> None:
    print(
        json.dumps(values), file=sys.__stdout__, flush=True
    )  # a system may have put its own words elsewhere
