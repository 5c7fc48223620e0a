"""How long a command takes before it does anything: `--help`, and the imports of a training run.

    python benchmarks/start_time.py

Each is a process of its own, several times; medians. CPU-seconds (user and system, of all threads) say more than wall
time on a busy machine. `import_cpu_s` is what `mirothinker_jax.train` imports before it runs: all that the first step
needs, but for the tools' HTTP client (0.5 s) where a run has tools. Below it, what the libraries alone cost: the floor.
"""

from __future__ import annotations

import importlib.metadata
import os
import resource
import statistics
import subprocess
import sys
import time

from measuring import Options
from results import device, finish, table

LIBRARIES = ("jax", "flax", "optax", "orbax-checkpoint", "grain")
COMMANDS = {
    "help": ("-m", "mirothinker_jax.train", "--help"),
    "import": ("-c", "from mirothinker_jax.train import import_run; import_run()"),
    "libraries": (
        "-c",
        "import gc; gc.disable(); import jax, flax.nnx, optax, orbax.checkpoint, grain, jax.experimental.pallas.tpu",
    ),
    "jax": ("-c", "import gc; gc.disable(); import jax"),
}


def measure(arguments: tuple[str, ...]) -> tuple[float, float]:
    """(wall, CPU) seconds of one process."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, *arguments], env=environment, stdout=subprocess.DEVNULL, check=True)
    wall, after = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = Options(__doc__)
    parser.add("runs", 7, "processes of each command, after one that is not counted")
    options = parser.parse_args()
    wall: dict[str, list[float]] = {name: [] for name in COMMANDS}
    cpu: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for number in range(options.runs + 1):
        for name, arguments in COMMANDS.items():
            seconds = measure(arguments)
            if number:  # the first reads files that the others find in memory
                wall[name].append(seconds[0])
                cpu[name].append(seconds[1])
    rows = [
        (
            name,
            f"{statistics.median(wall[name]):.2f}",
            f"{statistics.median(cpu[name]):.2f}",
            f"{min(cpu[name]):.2f}",
        )
        for name in COMMANDS
    ]
    print(table(("process", "wall, s", "CPU, s", "least CPU, s"), rows))
    finish(
        "start_time",
        {
            "help_s": round(statistics.median(wall["help"]), 3),
            "import_cpu_s": round(statistics.median(cpu["import"]), 3),
            "import_cpu_s_least": round(min(cpu["import"]), 3),
            "libraries_cpu_s": round(statistics.median(cpu["libraries"]), 3),
            "jax_cpu_s": round(statistics.median(cpu["jax"]), 3),
            "runs": options.runs,
            "python": sys.version.split()[0],
            "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
            "device": device(),
        },
    )


if __name__ == "__main__":
    main()
