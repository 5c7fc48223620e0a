"""`python -m mirothinker_jax.study --config toy/study [--from RUN]`: what interaction does for a small policy."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
from pathlib import Path
from typing import Any

from mirothinker_jax.config import Config, ConfigError
from mirothinker_jax.config_tree import build
from mirothinker_jax.data.strict_json import DataError
from mirothinker_jax.flags import CommandParser, parse, split, started_as, version
from mirothinker_jax.pipeline.endings import OUTAGE, STORAGE, one_line_endings, storage_failure
from mirothinker_jax.trainer.storage import ignore_late_writes

EXAMPLE = "toy/study"
EPILOG = f"""
examples:
  python -m mirothinker_jax.study --config {EXAMPLE}
      trains the policy first, by the stages that the config names, in config.run_dir
  python -m mirothinker_jax.study --config {EXAMPLE} --from runs/toy
      asks the policy of a run that is there; of the config only config.study counts

Everything goes to RUN/study: study.html for people, summary.json for programs, and a journal of every episode. The same
command goes on with what was stopped. `python -m mirothinker_jax.train --help` lists every --config.KEY=VALUE; those of
config.study say how many questions are asked, and how deep.
"""


@one_line_endings()
@ignore_late_writes()
def main(argv: list[str] | None = None) -> int:
    given, own = split(sys.argv[1:] if argv is None else argv)
    options = _arguments(own)
    config = parse(given, command="study", example=EXAMPLE)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr)
    for noisy in ("httpx", "orbax", "jax"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    try:
        if options.run is not None:
            config = read_run(options.run, config)
        return _study(config, train=options.run is None)
    except (ConfigError, DataError) as error:
        return _refuse(error, 2)
    except Exception as error:
        if line := storage_failure(error, config.run_dir):
            return _refuse(line, STORAGE)
        raise


def read_run(run: Path, config: Config) -> Config:
    """The settings that a run was made with, and the study's of `config`.

    Raises ConfigError where there is no run, or one of another version.
    """
    path = run / "config.json"
    try:
        values: Any = json.loads(path.read_text(encoding="utf-8"))
        made_with = build(Config, values)
    except (OSError, ValueError, TypeError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(
            f"--from {run}: {path.name} cannot be read ({why}); give the folder of a run"
        ) from None
    return dataclasses.replace(made_with, run_dir=str(run), study=config.study)


def _study(config: Config, train: bool) -> int:
    inputs = None
    if train:
        from mirothinker_jax.pipeline.inputs import open_inputs

        inputs = open_inputs(config)
    # Only now: what is wrong with the settings is said without waiting for jax.
    from mirothinker_jax.pipeline.run import run
    from mirothinker_jax.pipeline.study import study
    from mirothinker_jax.rollout.collect import OutageError

    try:
        if inputs is not None:
            run(config, inputs)
            config = read_run(Path(config.run_dir), config)  # with the day that the run began on
        summary = study(config, Path(config.run_dir))
    except OutageError as error:
        return _refuse(error, OUTAGE)
    for line in summary["findings"].values():
        sys.stdout.write(f"- {line}\n")
    sys.stdout.write(f"study: {config.run_dir}/study/study.html\n")
    return 0


def _refuse(error: object, status: int) -> int:
    sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
    return status


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = CommandParser(
        prog=started_as("study"),
        usage="%(prog)s --config CONFIG [--from RUN] [--config.KEY=VALUE ...]",
        description="Takes calls, feedback, pages or memory away from a policy, and shows what each is worth to it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=version())
    parser.add_argument(
        "--from",
        dest="run",
        type=Path,
        metavar="RUN",
        help="a finished run, whose policy is asked (default: train one)",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
