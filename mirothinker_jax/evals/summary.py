"""summary.json: the figures of a run for programs, beside report.html for people.

    {"accuracy": {"sft": {"mean", "low", "high", "n"}, "dpo": …, "grpo": …},
     "scaling": {"sft": {"0": 0.1, …, "32": 0.9}, …},                   accuracy by allowed calls
     "scaling_intervals": {"sft": {"0": {"mean", "low", "high", "n"}, …}, …},
     "by_hops": {"sft": {"1": {"mean", "low", "high", "n"}, …}, …},     accuracy by depth of the question
     "wall_s", "peak_rss_gib", "seed", and what the caller adds: "stop_reasons", "calls_per_episode",
     "phases", "device", "versions", …}

Shares are in 0…1. The file appears whole or not at all.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mirothinker_jax.data.atomic import write_json
from mirothinker_jax.evals.statistics import Accuracy

NAME = "summary.json"

# Stage → group (allowed calls, or hops) → accuracy.
Curves = Mapping[str, Mapping[int, Accuracy]]


def write_summary(
    run_dir: str | os.PathLike[str],
    *,
    accuracy: Mapping[str, Accuracy],
    scaling: Curves,
    wall_s: float,
    peak_rss_gib: float,
    seed: int,
    by_hops: Curves | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Writes `run_dir`/summary.json and returns what is in it. `more` are further JSON-able figures.

    Raises:
      ValueError: a key of `more` is taken, or a value is not finite or not JSON.
    """
    summary: dict[str, Any] = {
        "accuracy": {stage: dataclasses.asdict(value) for stage, value in accuracy.items()},
        "scaling": {s: {str(k): v.mean for k, v in curve.items()} for s, curve in scaling.items()},
        "scaling_intervals": _plain(scaling),
        "by_hops": _plain(by_hops or {}),
        "wall_s": wall_s,
        "peak_rss_gib": peak_rss_gib,
        "seed": seed,
    }
    taken = sorted(summary.keys() & more.keys())
    if taken:
        raise ValueError(f"summary.json has its own {', '.join(taken)}; give further figures other names")
    summary |= more
    try:
        write_json(Path(run_dir) / NAME, summary)
    except (TypeError, ValueError) as error:
        raise ValueError(f"summary.json cannot hold these figures: {error}") from None
    return summary


def read_summary(run_dir: str | os.PathLike[str]) -> dict[str, Any]:
    """The run's summary, or an empty dict where there is none yet."""
    return read_json(Path(run_dir) / NAME)


def read_json(path: Path) -> dict[str, Any]:
    """What an evaluation wrote, or an empty dict where there is none yet. Raises ValueError for what is not JSON."""
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path}: not JSON ({error}); remove it, the next evaluation writes it again"
        ) from None


def _plain(curves: Curves) -> dict[str, dict[str, dict[str, Any]]]:
    return {s: {str(k): dataclasses.asdict(v) for k, v in curve.items()} for s, curve in curves.items()}
