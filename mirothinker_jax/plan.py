"""`python -m mirothinker_jax.plan --config FILE --topology v5p:4x4x4`: does it fit, and what will a step cost.

The training step is compiled for the slice by the TPU compiler that pip installs, without a TPU. What it says of
memory is exact; times are estimates (planning/schedule.py says of what). GPUs are arithmetic only.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from pathlib import Path

from mirothinker_jax.config import STAGES, Config, ConfigError
from mirothinker_jax.flags import parse as parse_config
from mirothinker_jax.parallel.tpu_flags import set_flags
from mirothinker_jax.planning.chips import GPUS, TPUS, Topology, parse

EXAMPLES = """
examples:
  python -m mirothinker_jax.plan --config configs/mirothinker_v1_8b/sft.py --topology v5p:4x4x4
  python -m mirothinker_jax.plan --config configs/qwen/sft.py:qwen3-8b --topology v6e --sweep
      the fewest chips that fit
  python -m mirothinker_jax.plan --config configs/qwen/sft.py:qwen3-8b --topology h100:8 --config.mesh.context=2
      GPUs: arithmetic, since no compiler of theirs is at hand

All --config.KEY=VALUE of mirothinker_jax.train are taken; `python -m mirothinker_jax.train --help` lists them.
Needs libtpu for TPUs: pip install -e '.[tpu]' (no TPU).
"""


def main(argv: list[str] | None = None) -> int:
    options, rest = _arguments(sys.argv[1:] if argv is None else argv)
    config = parse_config(rest, program="python -m mirothinker_jax.plan --topology v5p:4x4x4")
    logging.getLogger("jax").setLevel(logging.ERROR)
    try:
        return _run(options, config)
    except ConfigError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2


def _run(options: argparse.Namespace, config: Config) -> int:
    stage = options.stage or config.stages[0]
    kind = options.topology.partition(":")[0]
    if options.sweep and kind in TPUS | GPUS:
        first: Topology | None = None
        chip = (TPUS | GPUS)[kind]
    else:
        first = parse(options.topology)
        chip = first.chip
    if chip.name in TPUS:
        _compile_for(chip.accelerator, kind)
    # Only now: jax reads the environment when it is imported.
    from mirothinker_jax.planning import advice, report
    from mirothinker_jax.planning.plan import make_plan

    plan, changes = None, []
    plans = advice.sweep(config, stage, kind) if first is None else iter([make_plan(config, stage, first)])
    for plan in plans:
        changes = [] if plan.fits else advice.advise(config, plan)
        sys.stdout.write(report.text(plan, changes if first else []) + "\n")
        sys.stdout.flush()
    if plan is None:
        raise ConfigError(
            f"no slice of {kind} comes near to what {stage} takes; shorten its rows, or split heads too"
        )
    if options.json:
        figures = plan.figures() | {"changes": [f"{c.what} ({c.cost})" for c in changes]}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        scratch = options.json.with_name(f".{options.json.name}.partial")
        scratch.write_text(json.dumps(figures, indent=2) + "\n")
        scratch.replace(options.json)
    return 0 if plan.fits else 1


def _compile_for(accelerator: str, kind: str) -> None:
    """Sets what jax and libtpu read when they are imported, so that they compile for a TPU that is not there."""
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": accelerator,
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_WORKER_ID": "0",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # or two processes collide on its lock file
    }
    set_flags(kind, os.environ)
    import importlib.util

    if importlib.util.find_spec("libtpu") is None:
        raise ConfigError(f"{kind} needs its compiler: pip install -e '.[tpu]' (no TPU needed)")


def _arguments(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="python -m mirothinker_jax.plan",
        description="Does a config's training step fit on a slice, and what will it cost? Compiles it for the slice "
        "without the slice. Exit code 0: it fits; 1: it does not; 2: the question has a mistake.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", required=True, metavar="FILE.py[:ARGUMENT]", help="as for mirothinker_jax.train"
    )
    parser.add_argument(
        "--topology", required=True, metavar="CHIP:SHAPE", help=f"v5p:4x4x4; chips: {', '.join(TPUS | GPUS)}"
    )
    parser.add_argument("--stage", choices=STAGES, help="default: the config's first")
    parser.add_argument(
        "--sweep",
        action="store_true",
        help="try slices and meshes, smallest first, until it fits (--topology v5p)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    options, rest = parser.parse_known_args(argv)
    return options, ["--config", options.config, *rest]


if __name__ == "__main__":
    sys.exit(main())
