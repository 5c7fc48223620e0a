"""What the benchmarks share beside their results: options that teach, and a process's highest resident memory."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


class Options(argparse.ArgumentParser):
    """A parser whose help is the benchmark's docstring, and each option with its default."""

    def __init__(self, description: str | None):
        super().__init__(
            description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
        )

    def add(self, name: str, default: Any, text: str) -> None:
        """An option --NAME of its default's type."""
        self.add_argument(
            f"--{name}", default=default, type=type(default), help=f"{text} (default: {default})"
        )


def forget_peak(process: int | str = "self") -> int:
    """The resident bytes of a process, from which its highest is counted again. Linux only."""
    Path(f"/proc/{process}/clear_refs").write_text("5")
    return _status_bytes(process, "VmRSS")


def peak_bytes(process: int | str = "self") -> int:
    """The highest resident size since `forget_peak`."""
    return _status_bytes(process, "VmHWM")


def _status_bytes(process: int | str, key: str) -> int:
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"/proc/{process}/status has no {key} here")
