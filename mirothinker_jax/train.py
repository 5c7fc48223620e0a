"""`python -m mirothinker_jax.train --config FILE [--config.key=value …]`: train, evaluate, report."""

from __future__ import annotations

import gc
import logging
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from mirothinker_jax.config_tree import ConfigError
from mirothinker_jax.flags import parse
from mirothinker_jax.parallel.tpu_flags import generation_here, set_flags
from mirothinker_jax.pipeline.endings import OUTAGE, STORAGE, one_line_endings, storage_failure
from mirothinker_jax.trainer.storage import ignore_late_writes

DESCRIPTION = """Trains a research agent: supervised fine-tuning, DPO and GRPO, as the config's `stages` say.

Everything goes to config.run_dir: metrics, checkpoints, trajectories, summary.json and report.html. The same
command resumes a run that was stopped, and does nothing where it is complete."""


@one_line_endings()
@ignore_late_writes()
def main(argv: list[str] | None = None) -> int:
    config = parse(sys.argv[1:] if argv is None else argv, description=DESCRIPTION)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr)
    for noisy in ("httpx", "orbax", "jax"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("absl").setLevel(
        logging.CRITICAL
    )  # Orbax logs every error that it raises, with a traceback
    set_flags(generation_here(os.environ), os.environ)
    from mirothinker_jax.data.messages import DataError
    from mirothinker_jax.pipeline.inputs import open_inputs

    try:
        inputs = open_inputs(config)
    except (ConfigError, DataError) as error:
        _refuse(error)
        return 2
    # Only now: what is wrong with config, data or tokenizer is said without waiting for jax.
    run = import_run()
    from mirothinker_jax.parallel.processes import leave_after_another, leave_others
    from mirothinker_jax.rollout.collect import OutageError

    try:
        summary = run(config, inputs)
    except (ConfigError, DataError, OutageError) as error:
        code = OUTAGE if isinstance(error, OutageError) else 2
        _refuse(error)
        leave_others(code)
        return code
    except Exception as error:
        if line := storage_failure(error, config.run_dir):
            sys.stderr.write(f"error: {line}\n")
            leave_others(STORAGE)
            return STORAGE
        leave_after_another(error)
        leave_others(1, traceback.format_exc())
        raise
    for stage, accuracy in summary.get("accuracy", {}).items():
        interval = f"[{accuracy['low']:.3f}, {accuracy['high']:.3f}]"
        sys.stdout.write(
            f"{stage}: held-out accuracy {accuracy['mean']:.3f} {interval}, n = {accuracy['n']}\n"
        )
    if summary:
        sys.stdout.write(f"report: {config.run_dir}/report.html\n")
    return 0


def import_run() -> Callable[..., dict[str, Any]]:
    """pipeline.run.run, and with it whatever training needs."""
    gc.disable()  # what importing makes stays: looking for garbage meanwhile is a tenth of the time
    try:
        from mirothinker_jax.pipeline.run import run
    finally:
        gc.enable()
    return run


def _refuse(error: Exception) -> None:
    sys.stderr.write(f"error: {' '.join(str(error).split())}\n")


if __name__ == "__main__":
    sys.exit(main())
