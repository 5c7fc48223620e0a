"""`python -m mirothinker_jax.evaluate --policy RUN_OR_URL --tasks FILE --runs 4`: how many answers are right."""

from __future__ import annotations

import argparse
import asyncio
import functools
import logging
import re
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from mirothinker_jax.agent.chat_engine import CHARS_PER_TOKEN, ChatSettings
from mirothinker_jax.config import PRESETS
from mirothinker_jax.config_tree import ConfigError, check
from mirothinker_jax.data.strict_json import DataError
from mirothinker_jax.evals.catalogue import BENCHMARKS
from mirothinker_jax.evals.comparison import compare_folders, rows, write_comparison
from mirothinker_jax.evals.measure import table
from mirothinker_jax.flags import CommandParser, parse, split, started_as, version
from mirothinker_jax.pipeline.benchmarking import cost_line, with_benchmark
from mirothinker_jax.pipeline.endings import OUTAGE, STORAGE, one_line_endings, storage_failure
from mirothinker_jax.pipeline.evaluating import evaluate
from mirothinker_jax.pipeline.evaluation import Evaluation
from mirothinker_jax.pipeline.policies import CHAT_CONFIG, is_url, starting_values
from mirothinker_jax.rollout.collect import OutageError

EXAMPLES = f"""
examples:
  python -m mirothinker_jax.evaluate --policy runs/my-run --tasks questions.jsonl --runs 4
      a run's newest checkpoint (or a stage's: runs/my-run/sft), under the settings that it was trained with
  python -m mirothinker_jax.evaluate --policy http://localhost:8000/v1 --tasks questions.jsonl --preset v1.0
      a model behind vLLM, SGLang, or whatever speaks OpenAI's chat API, in the scaffold of MiroThinker 1.0
  python -m mirothinker_jax.evaluate --policy models/Qwen3-1.7B --config.tools.search=world --limit 50
      a Hugging Face folder on this machine's devices, asked 50 questions of the embedded web
  python -m mirothinker_jax.evaluate --policy http://localhost:8000/v1 --preset v1.5 --runs 8 --benchmark gaia \\
      --tasks metadata.jsonl --config.tasks.grader=judge --config.tasks.judge_url=… --config.tasks.judge_model=…
      a published benchmark; --dry-run says what its judge would cost
  python -m mirothinker_jax.evaluate --policy http://localhost:8000/v1 --tasks questions.jsonl --runs 8 \\
      --export sft.jsonl --export-pairs pairs.jsonl
      a teacher's data: train on them with --config.data.path=sft.jsonl and --config.dpo.path=pairs.jsonl
  python -m mirothinker_jax.evaluate --compare runs/evaluated/before runs/evaluated/after
      two policies on the same questions: how much better the second is, and whether that may be chance. More pairs
      may follow, such as one for each budget of calls; --out says where comparison.json and .html go

Questions are JSON Lines, {{"id": …, "question": …, "answer": …}}; without --tasks they are those of config.tasks.

Who grades is config.tasks.grader (text, number, set, gaia, judge, MODULE:FUNCTION). Every --config.KEY=VALUE of
mirothinker_jax.train is taken; `python -m mirothinker_jax.train --help` lists them. A run brings its settings. With
--config FILE they are the file's, but for model, tokenizer and call format. Everything else runs under {CHAT_CONFIG}.

The same command goes on with what was stopped or broken, and with more --runs or a higher --limit. Exit status: 0,
2 where something that was given is wrong, {OUTAGE} where services broke too many episodes, {STORAGE} where files
cannot be written, 130 after Ctrl-C.
"""


@one_line_endings()
def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    try:
        return _compare(argv) if "--compare" in argv else _evaluate(argv)
    except (ConfigError, DataError) as error:
        return _refuse(error, 2)
    except OutageError as error:
        return _refuse(error, OUTAGE)
    except OSError as error:
        line = storage_failure(error) or f"{error.filename or '--out'}: {error.strerror or error}"
        return _refuse(line, STORAGE)


def _evaluate(argv: list[str]) -> int:
    given, own = split(argv)
    options = _arguments(own)
    config = parse(given, command="evaluate", example=CHAT_CONFIG, base=functools.partial(_base, options))
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("httpx", "orbax", "jax"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    check(bool(options.benchmark or not options.dry_run), "--dry-run is of a --benchmark; name one")
    config = with_benchmark(config, options.benchmark) if options.benchmark else config
    url = options.policy if is_url(options.policy) else ""
    chat = (options.model, options.key_env, options.chars_per_token, options.timeout)
    # Options are called as what they set is.
    fields = {name: value for name, value in vars(options).items() if name in Evaluation.__annotations__}
    fields["folder"] = options.folder or Path("runs/evaluated") / _name(options)
    fields["chat"] = ChatSettings(url, *chat, connections=max(1, options.concurrency))
    asked = Evaluation(config=config, **fields)
    if options.dry_run:
        sys.stdout.write(f"{cost_line(config, options.benchmark, options.limit, options.runs)}\n")
        return 0
    outcome = asyncio.run(evaluate(asked))
    for note in outcome.notes:
        sys.stderr.write(f"{note}\n")
    files = "report.html, summary.json, answers.jsonl, episodes.jsonl, manifest.json"
    sys.stdout.write(f"{table(outcome.measured)}{outcome.rows}{'files':<10}{asked.folder}: {files}\n")
    return 0


def _compare(argv: list[str]) -> int:
    parser = CommandParser(prog=started_as("evaluate"), allow_abbrev=False)
    parser.add_argument("--compare", nargs="+", metavar="FOLDER", help="the first policy's, the second's, …")
    parser.add_argument("--out", type=Path, metavar="FOLDER")
    options = parser.parse_args(argv)
    found = compare_folders(options.compare)
    names = [Path(folder).resolve().name for folder in options.compare]
    folder = options.out or Path("runs/compared") / "-".join(names)
    write_comparison(folder, found)
    sys.stdout.write(f"{rows(found)}{'files':<10}{folder}: comparison.json, comparison.html\n")
    return 0


def _base(options: argparse.Namespace, path: str | None, overridden: Collection[str]) -> Any:
    values = starting_values(options.policy, path, options.preset, options.tasks, overridden)
    if not is_url(options.policy) and options.concurrency:
        values.rollout.slots = options.concurrency
    return values


def _refuse(error: object, status: int) -> int:
    sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
    return status


def _name(options: argparse.Namespace) -> str:
    """Of the folder, by policy, questions and preset."""
    asked = options.benchmark or (options.tasks and Path(options.tasks).name)
    parts = (options.policy.removesuffix("/v1"), asked, options.preset)
    slugs = (re.sub(r"[^\w.]+", "-", re.sub(r"^https?://", "", part)).strip("-.") for part in parts if part)
    return "-".join(slug for slug in slugs if slug) or "policy"


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = CommandParser(
        prog=started_as("evaluate"),
        usage="%(prog)s --policy RUN_OR_URL [options] [--config FILE] [--config.KEY=VALUE ...]\n"
        "       %(prog)s --compare FOLDER FOLDER [FOLDER FOLDER ...] [--out FOLDER]",
        description="Asks a policy questions, each several times, and says how many answers are right.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )

    def add(name: str, help: str, default: object = "", metavar: str | None = None, **more: Any) -> None:
        parser.add_argument(*name.split(), help=help, default=default, metavar=metavar, **more)

    count: dict[str, Any] = {"type": int, "metavar": "N"}
    file: dict[str, Any] = {"type": Path, "default": None, "metavar": "FILE"}
    folder = file | {"metavar": "FOLDER"}
    flag: dict[str, Any] = {"action": "store_true"}
    parser.add_argument("--version", action="version", version=version())
    add("--policy", "a run, one of its stage folders, a Hugging Face folder, or an endpoint", required=True)
    add("--tasks --data", "questions: *.jsonl, *.jsonl.gz, *.parquet (globs and commas)", metavar="FILE")
    add("--benchmark", f"whose file --tasks is, as published: {', '.join(BENCHMARKS)}", metavar="NAME")
    add("--runs", "episodes of each question (default: 1)", 1, **count)
    add("--limit", "ask so many of the questions; the seed decides which (default: all)", 0, **count)
    add("--out", "where everything goes (default: a folder in runs/evaluated)", dest="folder", **folder)
    add("--preset", "how the agent goes about it (agent.preset)", choices=[name for name in PRESETS if name])
    add("--concurrency", "episodes at once, and slots of a local cache (default: 16)", 16, **count)
    add("--export", "write the correct episodes as SFT records (data.path)", dest="sft", **file)
    add("--export-pairs", "write correct against wrong as pairs (dpo.path)", dest="pairs", **file)
    add("--view", "write the episodes for `inspect view --log-dir FOLDER`", **folder)
    add("--second-judge", "another model at the judge's endpoint: how far they agree", metavar="MODEL")
    add("--people", "a table of episode,correct: how far the judge agrees with people", metavar="FILE")
    parser.add_argument("--dry-run", help="say what judging a benchmark would cost, and run nothing", **flag)
    parser.add_argument("--rejudge", help="judge the episodes that are there once more", **flag)
    parser.add_argument("--allow-encoded", help="export questions that were published encoded", **flag)
    add("--model", "of an endpoint that serves several: the name of the one")
    add("--key-env", "variable with its key (default: OPENAI_API_KEY)", "OPENAI_API_KEY", "NAME")
    add("--chars-per-token", "of it, as it is text (default: 3)", CHARS_PER_TOKEN, "N", type=float)
    add("--timeout", "seconds that a turn of it may take (default: 600)", 600.0, "S", type=float)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
