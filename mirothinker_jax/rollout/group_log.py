"""What became of groups, written down as it happens: admitted, finished, replaced, consumed by a step.

    groups.jsonl   {"event": "admitted", "group": 7, "place": 7, "members": [0, 1, 2, 3], "version": 2}
                   {"event": "finished", "group": 7, "members": [0, 1, 3]}
                   {"event": "replaced", "group": 8, "members": [0, 1, 2, 3]}
                   {"event": "consumed", "step": 3, "groups": [6, 7]}

Each of several processes has a log of its own groups (groups.0-of-2.jsonl), and none of the others'. So a run goes on
with as many processes as it began with, if redeal.py has not come between.

Read again, it leads the buffer to where it was. The episodes themselves are in journals (trajectory/journal.py). A line
is written before what it says has any effect, and a step's is on disk before the step is trained.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from pathlib import Path

from mirothinker_jax import checked_lines
from mirothinker_jax.data.strict_json import DataError
from mirothinker_jax.rollout.buffer import Buffer, Group
from mirothinker_jax.trajectory.journal import parts, share

NAME = "groups.jsonl"


def logs_of_others(folder: Path, count: int) -> list[Path]:
    """The logs that are not of `count` processes."""
    ours = {share(folder / NAME, index, count) for index in range(count)}
    return [path for path in parts(folder / NAME) if path not in ours]


class GroupLog:
    """Does to a buffer what is done, and writes it down."""

    def __init__(self, folder: Path, buffer: Buffer):
        """Brings the buffer, which is new, to where the folder's log ends.

        Raises DataError for a line that is damaged or does not fit those before it, and where other logs say that the
        number of processes was another one.
        """
        self.buffer = buffer
        self.consumed: list[list[Group]] = []  # by step, with the members that were trained
        index, count = buffer.slots.index, buffer.slots.count
        self._path = share(folder / NAME, index, count)
        if others := logs_of_others(folder, count):
            raise DataError(
                f"{others[0]}: what is sampled ahead was begun by another number of processes than {count}, and each "
                "has a log of its own groups; give as many as then, or remove the stage's folder to begin it anew"
            )
        self._file: io.FileIO | None = None
        if self._path.exists():
            self._read()

    def admit(self) -> Group | None:
        """As the buffer's."""
        group = self.buffer.admit()
        if group is not None:
            said = {"group": group.number, "place": group.place, "members": group.members}
            self._append({"event": "admitted"} | said | {"version": group.version})
        return group

    def finish(self, number: int, members: Sequence[int]) -> None:
        """As the buffer's."""
        self._append({"event": "finished", "group": number, "members": list(members)})
        self.buffer.finish(number, members)

    def replace(self, number: int, members: Sequence[int]) -> None:
        """As the buffer's."""
        self._append({"event": "replaced", "group": number, "members": list(members)})
        self.buffer.replace(number, members)

    def take(self) -> list[Group] | None:
        """As the buffer's."""
        groups = self.buffer.take()
        if groups is not None:
            numbers = [group.number for group in groups]
            self._append({"event": "consumed", "step": len(self.consumed), "groups": numbers})
            assert self._file is not None
            os.fsync(self._file.fileno())
            self.consumed.append(groups)
        return groups

    def close(self) -> None:
        if self._file is not None:
            checked_lines.close(self._file)
            self._file = None

    def _append(self, event: dict) -> None:
        if self._file is None:
            self._file = checked_lines.open_for_append(self._path)
        checked_lines.append(self._file, event)

    def _read(self) -> None:
        for number, _, text in checked_lines.read_lines(self._path):
            try:
                if text is None:
                    raise ValueError("it does not fit its checksum")
                self._redo(json.loads(text))
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f"{self._path}:{number}: a damaged line ({error}); without it nobody knows what was trained: bring "
                    "the file back, or remove the stage's folder to begin it anew"
                ) from None

    def _redo(self, event: dict) -> None:
        buffer, kind = self.buffer, event["event"]
        if kind == "admitted":
            buffer.publish(max(buffer.version, event["version"]))
            group = buffer.admit(again=True)
            said = Group(event["group"], event["place"], tuple(event["members"]), event["version"])
            if group != said:
                raise ValueError(f"it says {said}, and {group} was next")
        elif kind == "finished":
            buffer.finish(event["group"], event["members"])
        elif kind == "replaced":
            buffer.replace(event["group"], event["members"])
        elif kind == "consumed":
            groups = buffer.take()
            numbers = None if groups is None else [group.number for group in groups]
            if groups is None or (event["step"], event["groups"]) != (len(self.consumed), numbers):
                raise ValueError(f"it says {event}, and step {len(self.consumed)} had {numbers}")
            self.consumed.append(groups)
        else:
            raise ValueError(f"no event is called {kind!r}")
