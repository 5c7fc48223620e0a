"""What a system of gpu_step.py is given, and how it is driven: no framework, and nothing of this project."""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

WARMUP_STEPS = 2


@dataclasses.dataclass(frozen=True)
class Setting:
    """model: the fields of ModelConfig; of these the peer reads the sizes. tokens: of a row. rows: of a step,
    each a micro-batch. steps: to be timed."""

    model: dict[str, Any]
    tokens: int
    rows: int
    steps: int
    seed: int


def serve(
    system: Callable[[Setting], tuple[Callable[[], float], Callable[[], int], dict[str, Any]]],
) -> None:
    """The main function of a system's process: `python SYSTEM.py SETTING`, in JSON.

    `system(setting)` returns its step, which trains once and returns the loss before the update when all of it is done;
    what gives the most bytes that its allocator held so far; and what it has to say about itself. The last line of the
    output is JSON: figures of the steps after those that warm up.
    """
    setting = Setting(**json.loads(sys.argv[1]))
    step, peak_bytes, about = system(setting)
    losses, taken = [], []
    for _ in range(WARMUP_STEPS + setting.steps):
        begun = time.perf_counter()
        losses.append(step())
        taken.append(time.perf_counter() - begun)
    timed = taken[WARMUP_STEPS:]
    figures = {"step_s": statistics.median(timed), "seconds": timed, "peak_bytes": peak_bytes()}
    sys.stdout.write(json.dumps({**figures, "first_losses": losses[:2], **about}) + "\n")
