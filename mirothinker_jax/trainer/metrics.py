"""Figures of a run: metrics.jsonl for programs, TensorBoard for people, a progress bar for the terminal.

Unusual: a log that is opened again goes on where it stopped. Half a line, left by a crash, is dropped, and
`resume` takes back what was logged after the checkpoint that training goes on from, so that every step
appears once. Figures that are not finite are written as null (JSON has no NaN) and not to TensorBoard.
Imports no jax: whether this is the first process is the caller's to say. Left out: several writers of one
file, and the flush to disk of every line (a power cut may lose the last ones; a killed process loses none of
metrics.jsonl, and perhaps the last of TensorBoard's).
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from mirothinker_jax.data.atomic import replacing
from mirothinker_jax.trainer.events import EventFile

_LINE_EVERY_S = 10.0  # of a progress bar that goes to a file


class MetricsLog:
    """Writes `folder`/metrics.jsonl and `folder`/tensorboard/<stage>/; with `enabled` False, nothing.

    A line is `{"stage", "step", "time_s", …}`: the step of that stage, Unix time, then the figures.
    """

    def __init__(self, folder: str | os.PathLike[str], enabled: bool):
        self.path = Path(folder) / "metrics.jsonl"
        self._enabled = enabled
        self._events: dict[str, EventFile] = {}
        self._first_steps: dict[str, int] = {}
        self._file: TextIO | None = None
        if enabled:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _drop_half_line(self.path)
            self._file = self.path.open("a", encoding="utf-8")

    def write(self, step: int, figures: Mapping[str, Any], stage: str) -> None:
        """Logs the figures (anything that float() takes, jax scalars too) of one step of a stage."""
        if self._file is None:
            self._check_open()
            return
        values = {name: float(value) for name, value in figures.items()}
        line: dict[str, Any] = {"stage": stage, "step": int(step), "time_s": round(time.time(), 3)}
        taken = line.keys() & values.keys()
        if taken:
            raise ValueError(
                f"figures are named {', '.join(sorted(taken))}, as the log's own fields; rename them"
            )
        line |= {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()
        self._events_of(stage).write(int(step), {k: v for k, v in values.items() if math.isfinite(v)})

    def resume(self, step: int, stage: str) -> None:
        """Forgets the stage's lines beyond `step`: training goes on from there and will write them again.

        The file is replaced as a whole. TensorBoard is told to hide its older events from step + 1 on.

        Raises:
          ValueError: naming the file and the line of metrics.jsonl that cannot be read.
        """
        if self._file is None:
            self._check_open()
            return
        self._file.close()
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for number, line in enumerate(lines, 1) if not self._beyond(number, line, step, stage)]
        if len(kept) < len(lines):
            with replacing(self.path) as scratch:
                scratch.write_text("".join(kept), encoding="utf-8")
        self._file = self.path.open("a", encoding="utf-8")
        if stage in self._events:
            self._events.pop(stage).close()
        self._first_steps[stage] = step + 1

    def close(self) -> None:
        """Ends the files. Closing twice is fine; writing afterwards is an error."""
        for events in self._events.values():
            events.close()
        self._events.clear()
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._enabled:
            raise ValueError(f"{self.path} is closed")

    def _beyond(self, number: int, line: str, step: int, stage: str) -> bool:
        try:
            record = json.loads(line)
            return record["stage"] == stage and record["step"] > step
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self.path}:{number}: not a line of metrics ({error}); mend or remove the line"
            ) from None

    def _events_of(self, stage: str) -> EventFile:
        if stage not in self._events:
            folder = self.path.parent / "tensorboard" / stage
            self._events[stage] = EventFile(folder, self._first_steps.get(stage))
        return self._events[stage]


class Progress(tqdm):
    """A tqdm bar that shows the run's figures, and that starts no watching thread."""

    monitor_interval = 0  # the thread would live on in forked sandboxes

    def advance(self, figures: Mapping[str, float] | None = None, count: int = 1) -> None:
        """Goes on by `count`, with these figures shown at the next drawing (0.2 s apart, not every step)."""
        self.set_postfix(figures, refresh=False)
        self.update(count)


def progress(total: int, initial: int, description: str, unit: str, enabled: bool = True) -> Progress:
    """A bar with the time that is left, on stderr; `enabled` on the first process only.

        with progress(100, resumed_step, "sft", "step", enabled=jax.process_index() == 0) as bar:
            bar.advance({"loss": 0.3})

    Where stderr is not a terminal (a log file, CI), a whole line is written about every 10 s.
    """
    terminal = sys.stderr.isatty()
    return Progress(
        total=total,
        initial=initial,
        desc=description,
        unit=unit,
        disable=not enabled,
        file=sys.stderr if terminal else _Lines(sys.stderr),
        mininterval=0.2 if terminal else _LINE_EVERY_S,
        miniters=1,
        smoothing=0.1,
        dynamic_ncols=terminal,
        ascii=None if terminal else True,
        bar_format=None
        if terminal
        else "{desc}: {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]",
    )


class _Lines:
    """A stream on which each state of a bar is a line of its own, without control characters."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self._last = ""

    def write(self, text: str) -> None:
        state = text.strip("\r\n ")
        if state and state != self._last:  # a bar that ends draws its last state once more
            self._stream.write(state + "\n")
            self._last = state

    def flush(self) -> None:
        self._stream.flush()


def _drop_half_line(path: Path) -> None:
    """Cuts what follows the last newline. A line is only ever appended, so that is a crash's remains."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            file.truncate(whole)
