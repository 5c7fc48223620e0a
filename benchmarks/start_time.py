"""How long a command takes before it does anything: `--help`, and the imports of a training run.

    python benchmarks/start_time.py

Each is a process of its own, several times; medians. CPU-seconds (user and system, of all threads) say more than wall
time on a busy machine. `import_cpu_s` is what `mirothinker_jax.train` imports before it runs: all that the first step
needs, but for the tools' HTTP client (0.5 s) where a run has tools. Below it, what the libraries alone cost: the floor.
"""

from __future__ import annotations

import importlib.metadata
import os
import statistics
import subprocess
import sys
import time

from measuring import Options
from results import device, finish, table

LIBRARIES = ("jax", "flax", "optax", "orbax-checkpoint", "grain")
HELP = ("-m", "mirothinker_jax.train", "--help")
IMPORTS = {
    "a run": "from mirothinker_jax.train import import_run; import_run()",
    "its libraries": (
        "import gc; gc.disable(); "
        "import jax, flax.nnx, optax, orbax.checkpoint, grain, jax.experimental.pallas.tpu"
    ),
    "jax alone": "import gc; gc.disable(); import jax",
}
# At the end of the imports, not of the process: leaving collects garbage, which a run does hours later.
SAY = "; import resource as r; u = r.getrusage(r.RUSAGE_SELF); print(u.ru_utime + u.ru_stime)"


def run(*arguments: str) -> tuple[float, str]:
    """Wall seconds and stdout of one process."""
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return time.monotonic() - begun, done.stdout


def main() -> None:
    parser = Options(__doc__)
    parser.add("runs", 7, "processes of each kind, after one that is not counted")
    options = parser.parse_args()
    help_s, cpu_s = [], {name: [] for name in IMPORTS}
    for number in range(options.runs + 1):
        if number == 1:  # the first reads files that the others find in memory
            help_s, cpu_s = [], {name: [] for name in IMPORTS}
        help_s.append(run(*HELP)[0])
        for name, code in IMPORTS.items():
            cpu_s[name].append(float(run("-c", code + SAY)[1]))
    median = {name: statistics.median(seconds) for name, seconds in cpu_s.items()}
    rows = [(name, f"{median[name]:.2f}", f"{min(seconds):.2f}") for name, seconds in cpu_s.items()]
    print(table(("importing", "CPU-seconds", "least"), rows))
    print(f"--help: {statistics.median(help_s):.2f} s")
    finish(
        "start_time",
        {
            "help_s": round(statistics.median(help_s), 3),
            "import_cpu_s": round(median["a run"], 3),
            "import_cpu_s_least": round(min(cpu_s["a run"]), 3),
            "libraries_cpu_s": round(median["its libraries"], 3),
            "jax_cpu_s": round(median["jax alone"], 3),
            "runs": options.runs,
            "python": sys.version.split()[0],
            "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
            "device": device(),
        },
    )


if __name__ == "__main__":
    main()
