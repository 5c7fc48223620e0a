"""`python -m mirothinker_jax.plan --config FILE --topology v5p:4x4x4`: does it fit, and what will a step cost.

The training step, and for DPO and GRPO the steps of a host's sampler, are compiled by the TPU compiler that pip
installs, without a TPU. What it says of memory is exact (but for --quick); times are estimates (planning/schedule.py
and planning/sampling.py say of what). GPUs are arithmetic only.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import os
import sys
from pathlib import Path

from mirothinker_jax.config import STAGES, Config, ConfigError
from mirothinker_jax.data.atomic import replacing
from mirothinker_jax.flags import CommandParser, started_as, version
from mirothinker_jax.flags import parse as parse_config
from mirothinker_jax.parallel.tpu_flags import FLAGS, LEAST_EFFORT, set_flags
from mirothinker_jax.planning.chips import GPUS, TPUS, Chip, parse

DOES_NOT_FIT = 3  # the exit status; a crash has 1, as always in Python
EXAMPLES = """
examples:
  python -m mirothinker_jax.plan --config mirothinker/sft:8b --topology v5p:4x4x4
  python -m mirothinker_jax.plan --config qwen/sft:qwen3-8b --topology v6e --sweep --quick
      the fewest chips that fit, in one to two minutes for each slice that is tried; plan what it finds again
      without --quick, for the exact memory and for times
  python -m mirothinker_jax.plan --config qwen/sft:qwen3-8b --topology h100:8 --config.mesh.context=2
      GPUs: arithmetic, since no compiler of theirs is at hand

All --config.KEY=VALUE of mirothinker_jax.train are taken; `python -m mirothinker_jax.train --help` lists them.
The exit status is 0 where the step, and what it samples, fits, 3 where it does not, and 2 where something that was
given is wrong.
Needs libtpu for TPUs: pip install 'mirothinker-jax[tpu]' (no TPU).
"""


def main(argv: list[str] | None = None) -> int:
    options, rest = _arguments(sys.argv[1:] if argv is None else argv)
    config = parse_config(rest, command="plan --topology v5p:4x4x4")
    logging.getLogger("jax").setLevel(logging.ERROR)
    try:
        return _run(options, config)
    except ConfigError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2


def _run(options: argparse.Namespace, config: Config) -> int:
    if not (options.stage or config.stages):
        raise ConfigError("config.stages is empty: there is no step to plan; give some of sft, dpo, grpo")
    stage = options.stage or config.stages[0]
    if options.json is not None:
        _check_writable(options.json)
    known = TPUS | GPUS
    if options.sweep:
        if options.topology not in known:
            raise ConfigError(f"--sweep takes a chip without a size: --topology {', '.join(known)}")
        slice_, chip = None, known[options.topology]
    else:
        slice_ = parse(options.topology)
        chip = slice_.chip
    if options.quick and chip.name not in TPUS:
        raise ConfigError(f"--quick: nothing is compiled for {chip.name}, which is arithmetic; leave it out")
    if options.quick and chip.name == "v4":
        raise ConfigError(
            "--quick: for a v4 the compiler aborts when it makes the least effort; leave it out"
        )
    if chip.name in TPUS:
        _compile_for(chip, options.quick)
    # Only now: jax reads the environment when it is imported.
    from mirothinker_jax.planning import advice, report, sweep
    from mirothinker_jax.planning.plan import make_plan

    plan, changes = None, []
    if slice_ is None:
        plans = sweep.sweep(config, stage, chip, options.quick)
    else:
        plans = iter([(config, make_plan(config, stage, slice_, options.quick))])
    for tried, plan in plans:
        sys.stdout.write(report.text(plan) + "\n")
        sys.stdout.flush()
        changes = [] if plan.fits else advice.advise(tried, plan)
    if plan is None:
        raise ConfigError(
            f"no slice of {chip.name}, and of its hosts' memory, comes near to what {stage} takes; shorten its rows"
        )
    if changes:
        sys.stdout.write(report.advice(changes) + "\n")
    if options.json is not None:
        with replacing(options.json) as scratch:
            figures = plan.figures() | {"changes": [c.figures() for c in changes]}
            scratch.write_text(json.dumps(figures, indent=2) + "\n")
    return 0 if plan.fits else DOES_NOT_FIT


def _check_writable(path: Path) -> None:
    """Before minutes of compiling, not after them."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--json {path}: {error.strerror}") from None
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise ConfigError(f"--json {path}: cannot be written; give a file in a folder of yours")


def _compile_for(chip: Chip, quick: bool = False) -> None:
    """Sets what jax and libtpu read when they are imported, so that they compile for a TPU that is not there."""
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": chip.accelerator,
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_WORKER_ID": "0",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # or two processes collide on its lock file
        **({"JAX_EXEC_TIME_OPTIMIZATION_EFFORT": "-1.0"} if quick else {}),
    }
    set_flags(chip.name, os.environ, LEAST_EFFORT if quick else FLAGS)
    if importlib.util.find_spec("libtpu") is None:
        raise ConfigError(
            f"{chip.name} needs its compiler: pip install 'mirothinker-jax[tpu]' (no TPU needed)"
        )


def _arguments(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = CommandParser(
        prog=started_as("plan"),
        description="Does a config's training step fit on a slice, and what will it cost? Compiles it for the slice "
        "without the slice.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", required=True, metavar="CONFIG[:ARGUMENT]", help="as for mirothinker_jax.train"
    )
    parser.add_argument(
        "--topology", required=True, metavar="CHIP:SHAPE", help=f"v5p:4x4x4; chips: {', '.join(TPUS | GPUS)}"
    )
    parser.add_argument("--version", action="version", version=version())
    parser.add_argument("--stage", choices=STAGES, help="default: the config's first")
    parser.add_argument(
        "--sweep",
        action="store_true",
        help="try slices and meshes, smallest first, until it fits (--topology v5p); that is of config.mesh.data, "
        "fsdp and context and the stage's training.microbatch_size, so the config's own are not read",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="compile with the least effort: in a fraction of the time, but the memory is approximate, and no times",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    options, rest = parser.parse_known_args(argv)
    return options, ["--config", options.config, *rest]


if __name__ == "__main__":
    sys.exit(main())
