"""What every benchmark says about the machine it ran on, and how its figures are kept."""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

from mirothinker_jax.data.atomic import replacing

FOLDER = Path(__file__).with_name("results")


def device() -> dict[str, Any]:
    """The processor, the cores that this process may use, and the memory."""
    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(pages / 2**30, 1),
        "system": platform.platform(),
    }


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Lines of left-aligned first and right-aligned other columns."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    cells = [
        [
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        for row in (header, *rows)
    ]
    return "\n".join("  ".join(row) for row in cells)


def finish(name: str, figures: dict[str, Any]) -> None:
    """Keeps the figures as results/NAME.json, whole or not at all, and prints them as one last line of JSON."""
    with replacing(FOLDER / f"{name}.json") as scratch:
        scratch.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(figures) + "\n")
