"""The train command as a user starts it: a process of its own, without the tests' fake devices."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SMOKE = ROOT / "configs" / "toy" / "smoke.py"
SFT = ROOT / "configs" / "toy" / "sft.py"


def start(config, *settings):
    """Popen of a run."""
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    environment |= {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # as in conftest.py
    return subprocess.Popen(
        [sys.executable, "-m", "mirothinker_jax.train", "--config", str(config), *settings],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process, timeout=400):
    """(exit code, stdout, stderr)."""
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return process.returncode, out, err


def left_overs(folder):
    """Files that were being written when somebody stopped."""
    return [
        p
        for p in Path(folder).rglob("*")
        if p.name.endswith((".tmp", ".partial")) or "orbax-checkpoint-tmp" in p.name
    ]
