"""When the turns and calls of a journal's episodes were: what waited, what ran, what failed.

A journal says when a turn or a result was there, and when a call was due. An episode that was begun again has its last
try here only: a turn that comes a second time takes what followed the first one with it. Damaged lines are left out, as
journal.py counts them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from mirothinker_jax import checked_lines
from mirothinker_jax.trajectory.journal import parts


class CallTime(NamedTuple):
    """A call. Times are Unix seconds; `ended` is None while it is under way."""

    server: str
    tool: str
    asked: float | None
    ended: float | None = None
    running_s: float = 0.0  # without what it waited for its first turn
    failure: str | None = None
    cached: bool = False
    truncated: bool = False

    @property
    def waiting_s(self) -> float | None:
        """From when it was due to its first attempt; None where the journal does not say."""
        if self.asked is None or self.ended is None:
            return None
        return max(0.0, self.ended - self.asked - self.running_s)


@dataclass
class EpisodeTimes:
    """An episode's. Turns count from 0, and a turn's calls too."""

    turns: dict[int, float] = field(default_factory=dict)  # when each was there
    calls: dict[tuple[int, int], CallTime] = field(default_factory=dict)

    def take(self, event: Mapping[str, Any]) -> None:
        """What a turn, ask or call event of the journal says. Raises KeyError or ValueError for one that says
        something else."""
        if event["event"] == "turn":
            number = event["number"]
            for later in [n for n in self.turns if n > number]:
                del self.turns[later]
            for place in [p for p in self.calls if p[0] >= number]:
                del self.calls[place]
            self.turns[number] = event["at"]
            return
        turn, call = event["request"].rpartition(":")[2].split(".")
        place = int(turn) - 1, int(call)  # of a request's name, the turn is counted from 1
        if event["event"] == "ask":
            self.calls[place] = CallTime(event["server"], event["tool"], event["at"])
        elif event["event"] == "call":
            before = self.calls.get(place)
            self.calls[place] = CallTime(
                event["server"],
                event["tool"],
                before and before.asked,
                event["at"],
                event["seconds"],
                event["failure"],
                event["cached"],
                event["truncated"],
            )


def read_timelines(path: Path) -> dict[str, EpisodeTimes]:
    """Those of a journal, by episode."""
    found: dict[str, EpisodeTimes] = {}
    for part in parts(path):
        for _, _, text in checked_lines.read_lines(part):
            try:
                event = json.loads(text or b"null")
                if event["event"] in ("turn", "ask", "call"):
                    found.setdefault(event["episode"], EpisodeTimes()).take(event)
            except (ValueError, KeyError, TypeError):
                continue
    return found
