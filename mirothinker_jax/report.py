"""`python -m mirothinker_jax.report FOLDER`: the page of a run or of an evaluation, written anew, or of some questions.

The commands that train and evaluate write it at their end. This one needs no model: it may be called while they are on,
and for questions whose episodes did not fit into the page.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mirothinker_jax.config_tree import ConfigError
from mirothinker_jax.data.messages import DataError
from mirothinker_jax.evals.episodes import Decode, journals
from mirothinker_jax.evals.report_evaluation import MOST_BYTES, write_evaluation_report
from mirothinker_jax.flags import CommandParser, started_as, version

DESCRIPTION = """Writes report.html of a training run or of an evaluation, from the files in its folder. The page
needs nothing but itself: it can be sent, and opened without a network."""


def main(argv: list[str] | None = None) -> int:
    parser = CommandParser(
        prog=started_as("report"),
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="the folder of a run (config.run_dir) or of an evaluation")
    parser.add_argument("--questions", default="", metavar="ID,ID", help="of an evaluation, only these")
    parser.add_argument(
        "--name", default="report.html", metavar="FILE", help="in the folder (default: report.html)"
    )
    parser.add_argument(
        "--tokenizer", default="", metavar="PATH", help="says what tokens say, where it is not the run's own"
    )
    parser.add_argument(
        "--most-mb",
        type=float,
        default=MOST_BYTES / 2**20,
        help="of episodes in the page of an evaluation (default: 64)",
    )
    parser.add_argument("--version", action="version", version=version())
    options = parser.parse_args(argv)
    try:
        sys.stdout.write(f"{_write(options)}\n")
    except (ConfigError, DataError, ValueError, OSError) as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2
    return 0


def _write(options: argparse.Namespace) -> Path:
    folder = options.folder
    decode = _decode(folder, options.tokenizer)
    if (folder / "config.json").exists():
        if options.questions or options.name != "report.html":
            raise ValueError(
                f"{folder} is a training run, whose page is report.html; --questions and --name are of an evaluation"
            )
        from mirothinker_jax.evals.report import write_report  # draws, which takes a second to import

        return write_report(folder, decode)
    if not journals(folder):
        raise ValueError(f"{folder} has no episodes; give a run's config.run_dir, or an evaluation's --out")
    wanted = {name for name in options.questions.split(",") if name} or None
    return write_evaluation_report(
        folder, name=options.name, questions=wanted, decode=decode, most_bytes=int(options.most_mb * 2**20)
    )


def _decode(folder: Path, tokenizer: str) -> Decode | None:
    from mirothinker_jax.data.hf_tokenizer import open_tokenizer

    own = folder / "data" / "tokenizer.model"
    if tokenizer or own.exists():
        return open_tokenizer(tokenizer or own).decode
    return None


if __name__ == "__main__":
    sys.exit(main())
