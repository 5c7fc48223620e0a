"""metrics.jsonl read back as series: which figures of which stage make a plot, and what each one means."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# Figure → (title, what it says). A stage's plots come in this order; what is not here is in the table only.
PLOTTED = {
    "loss": ("Loss", "what the optimizer minimises"),
    "validation_loss": (
        "Held-out loss",
        "mean negative log-likelihood per trained token of conversations that are not trained on",
    ),
    "preference_accuracy": (
        "Pairs ranked right",
        "share of pairs whose chosen trajectory gains more than the rejected one",
    ),
    "margin": ("Preference margin", "β · (gain of the chosen − gain of the rejected), in nats"),
    "reward": ("Mean reward of the rollouts", "before the group's mean is taken off"),
    "accuracy": ("Right answers in the rollouts", "on training questions, at the training temperature"),
    "calls": ("Tool calls per episode", "how deep the policy interacts"),
    "episode_tokens": ("Episode length", "tokens per episode, prompt and tool results included"),
    "format_violations": (
        "Format violations",
        "share of episodes that break the wire format or give no answer",
    ),
    "logprob_gap": (
        "Sampler against trainer",
        "mean |log π_trainer − log π_sampler| per token, in nats; near 0 is healthy",
    ),
    "entropy": ("Entropy", "nats per trained token"),
    "kl": ("KL to the reference", "nats per trained token"),
    "grad_norm": ("Gradient norm", "before clipping"),
}
_FIELDS = ("stage", "step", "time_s")


@dataclass(frozen=True)
class Series:
    """One figure of one stage; steps whose value was not finite are left out and counted in `missing`."""

    stage: str
    name: str
    steps: tuple[int, ...]
    values: tuple[float, ...]
    missing: int = 0

    def excerpt(self, most: int) -> list[tuple[int, float]]:
        """At most `most` points, evenly spaced, with the first and the last."""
        n = len(self.steps)
        picked = range(n) if n <= most else [round(i * (n - 1) / (most - 1)) for i in range(most)]
        return [(self.steps[i], self.values[i]) for i in picked]


def read_series(path: str | os.PathLike[str]) -> tuple[dict[str, dict[str, Series]], int]:
    """Stage → figure → series (stages in order of appearance), and the count of unreadable lines.

    The last line of a run that is still writing may be half a line: it is counted, not fatal.
    """
    points: dict[str, dict[str, list[tuple[int, float | None]]]] = {}
    unreadable = 0
    with Path(path).open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                record = json.loads(line)
                stage, step = str(record["stage"]), int(record["step"])
                figures = {k: v for k, v in record.items() if k not in _FIELDS}
            except (ValueError, KeyError, TypeError, AttributeError):
                unreadable += 1
                continue
            for name, value in figures.items():
                if value is None or isinstance(value, (int, float)):
                    points.setdefault(stage, {}).setdefault(name, []).append((step, value))
    return {s: {n: _series(s, n, p) for n, p in names.items()} for s, names in points.items()}, unreadable


def series_to_plot(series: Mapping[str, Series]) -> list[Series]:
    """A stage's series that are worth a plot: known by name, with at least one finite value."""
    return [series[name] for name in PLOTTED if name in series and series[name].values]


def _series(stage: str, name: str, points: list[tuple[int, float | None]]) -> Series:
    finite = [(step, value) for step, value in points if value is not None and math.isfinite(value)]
    steps, values = zip(*finite, strict=True) if finite else ((), ())
    return Series(stage, name, tuple(steps), tuple(float(v) for v in values), len(points) - len(finite))
