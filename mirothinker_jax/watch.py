"""`python -m mirothinker_jax.watch FOLDER`: how far a run or an evaluation is, in the terminal, while it is on."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mirothinker_jax.evals.progress import Progress
from mirothinker_jax.flags import CommandParser, started_as, version

DESCRIPTION = """Shows how far a training run or an evaluation is: steps or episodes done, accuracy so far, calls under
way, failed calls by kind, tokens per second, the time that is left. It only reads, so it may be started and
stopped at will, beside the run or on another machine that sees its folder.

In a terminal the lines are redrawn; elsewhere a line is written for every look that found something new. It ends by
Ctrl-C, or when all episodes of an evaluation have ended."""


def main(argv: list[str] | None = None) -> int:
    parser = CommandParser(
        prog=started_as("watch"),
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="the folder of a run (config.run_dir) or of an evaluation")
    parser.add_argument("--once", action="store_true", help="look once and end, for scripts")
    parser.add_argument("--json", action="store_true", help="write each look as a line of JSON")
    parser.add_argument(
        "--every", type=float, default=2.0, metavar="SECONDS", help="between looks (default: 2)"
    )
    parser.add_argument("--version", action="version", version=version())
    options = parser.parse_args(argv)
    if not options.folder.is_dir():
        sys.stderr.write(
            f"error: {options.folder} is no folder; give a run's config.run_dir, or an evaluation's --out\n"
        )
        return 2
    if not options.every > 0:
        sys.stderr.write(f"error: --every is {options.every:g}; give more than 0 seconds\n")
        return 2
    try:
        _watch(options)
    except KeyboardInterrupt:
        sys.stdout.write("\n")
    except BrokenPipeError:  # `| head` has seen enough
        sys.stderr.close()
    return 0


def _watch(options: argparse.Namespace) -> None:
    progress, drawn, before = Progress(options.folder), 0, ""
    redraws = sys.stdout.isatty() and not (options.once or options.json)
    while True:
        found = progress.look()
        width = shutil.get_terminal_size().columns
        lines = [line[: width - 1] if redraws else line for line in summary(found, width if redraws else 100)]
        if options.json:
            sys.stdout.write(json.dumps(found) + "\n")
        elif redraws:
            up = f"\x1b[{drawn}A\x1b[J" if drawn else ""
            sys.stdout.write(up + "".join(f"{line}\n" for line in lines))
            drawn = len(lines)
        elif options.once:
            sys.stdout.write("".join(f"{line}\n" for line in lines))
        elif (text := " · ".join(lines)) != before:
            sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
            before = text
        sys.stdout.flush()
        if options.once or _over(found):
            return
        time.sleep(options.every)


def summary(found: Mapping[str, Any], width: int) -> Iterator[str]:
    """Lines for people. Names of tools are a model's to choose, and may hold anything: what is no letter is a "?"."""
    training, episodes = found["training"], found["episodes"]
    if training is None and episodes is None:
        yield "nothing has been logged yet"
    if training is not None:
        rate = training["step_s"] and 1 / training["step_s"]
        yield _bar(training["stage"], training["steps"], training["total"], "step", rate, width)
        shown = [f"{name} {training[name]:.4g}" for name in training if name not in _OWN]
        yield ", ".join([*shown, f"logged {_duration(training['quiet_s'])} ago"])
    if episodes is None:
        return
    rate = episodes["episodes_per_s"]
    yield _bar(episodes["journal"], episodes["ended"], episodes["total"], "episode", rate, width)
    judged = (
        [f"{100 * episodes['accuracy']:.1f}% right of {episodes['judged']} judged"]
        if episodes["judged"]
        else []
    )
    judged += [f"{episodes['not_judged']} not judged"] if episodes["not_judged"] else []
    judged += [f"{n} {stop.replace('_', ' ')}" for stop, n in episodes["stops"].items()]
    yield ", ".join(judged) or "nothing has been judged yet"
    speed = episodes["sampled_per_s"]
    going = [f"{episodes['going']} under way", f"{episodes['in_flight']} calls in flight"]
    if episodes["longest_in_flight"]:
        tool, seconds = episodes["longest_in_flight"]
        going[1] += (
            f" (the longest {_duration(seconds)}, {''.join(c if c.isprintable() else '?' for c in tool)[:60]})"
        )
    going += [f"{speed:.0f} {episodes['unit']}/s sampled"] if speed else []
    yield ", ".join([*going, f"written {_duration(episodes['quiet_s'])} ago"])
    failed = sum(episodes["failures"].values())
    kinds = ", ".join(f"{n} {kind.replace('_', ' ')}" for kind, n in episodes["failures"].items())
    yield f"{episodes['calls']} calls, {failed} failed" + (f": {kinds}" if kinds else "")
    if episodes["damaged"]:
        yield f"{episodes['damaged']} damaged lines"


_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{remaining} left, {rate_fmt}]"
_OWN = ("stage", "steps", "total", "step_s", "left_s", "quiet_s")


def _bar(name: str, done: int, total: int | None, unit: str, rate: float | None, width: int) -> str:
    from tqdm import tqdm

    if total is None:
        return f"{name}: {done} {unit}s"
    return tqdm.format_meter(
        done, total, 0, ncols=width, prefix=name, unit=unit, rate=rate or None, bar_format=_BAR
    )


def _over(found: Mapping[str, Any]) -> bool:
    """Whether it is an evaluation of which every episode has ended and was judged, or was given up."""
    episodes = found["episodes"]
    if found["training"] is not None or episodes is None or not episodes["total"]:
        return False
    return (
        episodes["ended"] >= episodes["total"]
        and episodes["judged"] + episodes["not_judged"] >= episodes["total"]
    )


def _duration(seconds: float) -> str:
    seconds = max(0, round(seconds))
    minutes, rest = divmod(seconds, 60)
    return (
        f"{rest} s"
        if not minutes
        else f"{minutes} min"
        if minutes < 60
        else f"{minutes // 60} h {minutes % 60:02d} min"
    )


if __name__ == "__main__":
    sys.exit(main())
