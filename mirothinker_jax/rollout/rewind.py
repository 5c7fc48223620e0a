"""What was sampled ahead, taken back to a step: for a run that goes on from there with another schedule.

The weights up to a step's are the same under both schedules. So whatever had ended when the step took its groups is
kept, the step's groups and those before it among them. All else was, or may have been, sampled with later weights that
nobody will come to now: it is sampled anew. Files are kept aside as they were before they are shortened.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mirothinker_jax import checked_lines
from mirothinker_jax.data.atomic import replacing
from mirothinker_jax.rollout.group_log import NAME
from mirothinker_jax.rollout.walk import episode_name
from mirothinker_jax.trajectory.journal import parts

Event = dict[str, Any]


def rewind(folder: Path, step: int, questions: int, aside: Path) -> bool:
    """Takes the logs of groups in `folder`, and the journals that belong to them, back to when `step` took its groups;
    False where there are no such logs. `questions` are those of a step. Harmless the second time.

    A log that step `step` has not come to has nothing beyond it. Raises OSError.
    """
    logs = parts(folder / NAME)
    for log in logs:
        events = list(_until(step, log))
        if not events or events[-1]["event"] != "consumed" or events[-1]["step"] != step:
            continue
        ended = {event["group"]: event["members"] for event in events if event["event"] == "finished"}
        kept = {
            episode_name(questions, event["place"], member)
            for event in events
            if event["event"] == "admitted"
            for member in ended.get(event["group"], ())
        }
        _, _, share = log.name.partition(".")
        for journal in sorted(folder.glob("step_*")):
            if journal.name.partition(".")[2] == share:
                _shorten(journal, lambda event, kept=kept: _of(event, kept), aside)
        numbers = iter(range(len(events)))
        _shorten(log, lambda event, left=numbers: event if next(left, None) is not None else None, aside)
    return bool(logs)


def _until(step: int, log: Path) -> Iterator[Event]:
    """The log's events up to the one in which the step took its groups; up to a damaged one, which nobody goes on
    with."""
    for _, _, text in checked_lines.read_lines(log):
        if text is None:
            return
        event = json.loads(text)
        yield event
        if event["event"] == "consumed" and event["step"] == step:
            return


def _of(event: Event, kept: set[str]) -> Event | None:
    """What a journal's event says of these episodes."""
    if event["event"] == "left_out":
        left = [episode for episode in event["episodes"] if episode in kept]
        return event | {"episodes": left} if left else None
    return event if event["episode"] in kept else None


def _shorten(path: Path, change: Callable[[Event], Event | None], aside: Path) -> None:
    """Writes the file's events anew, those that `change` gives, after a copy of it, and of what it speaks of, is
    aside."""
    before = [None if text is None else json.loads(text) for _, _, text in checked_lines.read_lines(path)]
    after = [new for event in before if event is not None and (new := change(event)) is not None]
    if after == before:
        return
    aside.mkdir(exist_ok=True)
    for file in (path, path.with_suffix(".columns")):
        if file.exists() and not (aside / file.name).exists():  # a killed start may have begun this
            with replacing(aside / file.name) as scratch:
                shutil.copyfile(file, scratch)
    with replacing(path) as scratch, checked_lines.open_for_append(scratch) as lines:
        for event in after:
            checked_lines.append(lines, event)
