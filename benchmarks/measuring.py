"""What the benchmarks share beside their results: options that teach, systems in processes of their own, and the most
memory of a process."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


class Process:
    """A system in a process of its own, which answers each line it is sent by one of JSON. `about` is its first."""

    def __init__(self, python: str, script: Path, argument: str, threads: int):
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "JAX_PLATFORMS": "cpu"}
        self._process = subprocess.Popen(
            [python, str(script), argument],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        self._name = script.stem
        self.about = self._answer()

    def ask(self, line: str) -> dict[str, Any]:
        """What it says to the line, once it has done what that asks for."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self._name}: ended with {self._process.wait()}; its error is above")
        return json.loads(line)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


def interpreter(*modules: str) -> str | None:
    """The running interpreter, if it has these modules."""
    return sys.executable if all(importlib.util.find_spec(m) for m in modules) else None


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
