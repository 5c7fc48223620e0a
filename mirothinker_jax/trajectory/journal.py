"""What happened in episodes, written down as it happens: each turn, each call's result, each verdict and each end.

A journal is two files that only grow. NAME.jsonl has a line for each event, for people too (checked_lines.py);
NAME.columns has the tokens, log-probs and routes that the lines speak of, in binary, each stretch with a checksum in
its line. Turns and calls say when they were (timeline.py). An episode that ended is in one line with all it holds. One
that did not is gone on with: its turns and results are read back (rollout/recorded.py), so nothing that was finished is
done twice.

Several processes write a journal each, under the name that `share` gives. Readers take all of them, whatever the number
of processes was. Damaged lines and columns count as never written.
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import io
import itertools
import json
import logging
import os
import time
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mirothinker_jax import checked_lines
from mirothinker_jax.config_tree import ConfigError
from mirothinker_jax.tasks.types import Verdict
from mirothinker_jax.trajectory.types import Segment, Source, Stop, Trajectory, Turn, TurnContext

logger = logging.getLogger(__name__)

# (where it begins, bytes of each column in COLUMNS' order, checksum)
Stretch = tuple[int, list[int], int]


def share(path: Path, index: int, count: int) -> Path:
    """The name of process `index`'s part of a journal; with one process, the journal's own.

    >>> share(Path("step_3.jsonl"), 0, 2).name
    'step_3.0-of-2.jsonl'
    """
    return path if count == 1 else path.with_name(f"{path.stem}.{index}-of-{count}{path.suffix}")


def of_others(path: Path, index: int, count: int) -> set[Path]:
    """The parts that the other ones of `count` processes write."""
    return {share(path, other, count) for other in range(count) if other != index}


def parts(path: Path) -> list[Path]:
    """The files of a journal that are there, whoever wrote them."""
    others = path.parent.glob(f"{glob.escape(path.stem)}.*-of-*{glob.escape(path.suffix)}")
    return [p for p in (path, *sorted(others)) if p.is_file()]


@dataclass
class Unfinished:
    """An episode that did not come to its own end: what is known of it."""

    turns: dict[str, Turn] = field(default_factory=dict)  # by the digest of what each was sampled from
    calls: dict[str, dict[str, Any]] = field(default_factory=dict)  # fields of results by request id


class Journal:
    """Appends to one process's part. The files are opened when something is written, which raises ConfigError where
    another process has them, and OSError where they cannot be written."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time):
        self._path, self._clock = path, clock
        self._lines: io.FileIO | None = None
        self._columns: io.FileIO | None = None

    def turn(self, episode: str, number: int, context: str, turn: Turn, text: str) -> None:
        """A turn as it was sampled, the `number`th of its episode, after a context of this digest."""
        columns = _pack(np.asarray(turn.tokens, np.int32), np.asarray(turn.logprobs, np.float32), turn.routes)
        event = {"event": "turn", "episode": episode, "number": number, "context": context, "text": text}
        if turn.versions:
            runs = itertools.groupby(turn.versions)
            event["versions"] = [[version, len(list(tokens))] for version, tokens in runs]
        self._append(event | {"complete": turn.complete} | self._now(), columns, turn.routes)

    def ask(self, episode: str, request: str, server: str, tool: str) -> None:
        """A call is due. Nothing is resumed by this; it says what is under way, and how long a call waited."""
        event = {"event": "ask", "episode": episode, "request": request, "server": server, "tool": tool}
        self._append(event | self._now())

    def call(self, episode: str, request: str, result: Mapping[str, Any]) -> None:
        """A call's result, by its fields."""
        event = {"event": "call", "episode": episode, "request": request}
        self._append(event | dict(result) | self._now())

    def end(self, trajectory: Trajectory) -> None:
        """A whole episode."""
        t = trajectory
        tokens = np.concatenate(
            [np.asarray(s.tokens, np.int32) for s in t.segments] or [np.zeros(0, np.int32)]
        )
        logprobs = np.asarray([x for s in t.segments for x in s.logprobs], np.float32)
        own = {f.name: getattr(t, f.name) for f in dataclasses.fields(t)}
        for name in ("segments", "turns", "routes", *_VERDICT):
            del own[name]
        event = {"event": "end", "episode": t.id} | own
        event["segments"] = [
            {"source": s.source, "tokens": len(s.tokens), "messages": s.messages}
            | ({} if s.hides is None else {"hides": s.hides})
            for s in t.segments
        ]
        event["turns"] = list(context_deltas(t.turns))
        self._append(event | self._now(), _pack(tokens, logprobs, t.routes), t.routes)

    def verdict(self, episode: str, verdict: Verdict) -> None:
        """What a grader says of an episode; of several verdicts the last counts."""
        self._append({"event": "verdict", "episode": episode} | dataclasses.asdict(verdict))

    def leave_out(self, episodes: Sequence[str]) -> None:
        """These ended broken or unjudged, and all others ended well: what was asked for is complete without them."""
        self._append({"event": "left_out", "episodes": list(episodes)})

    def sync(self) -> None:
        """What was written is on disk, and other hosts that open the files see it."""
        for file in filter(None, (self._columns, self._lines)):
            os.fsync(file.fileno())

    def close(self) -> None:
        files, self._lines, self._columns = (self._lines, self._columns), None, None
        with contextlib.ExitStack() as stack:
            for file in filter(None, files):
                stack.callback(checked_lines.close, file)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _now(self) -> dict[str, float]:
        return {"at": round(self._clock(), 3)}

    def _append(
        self, event: dict[str, Any], columns: list[bytes] | None = None, routes: np.ndarray | None = None
    ) -> None:
        if self._lines is None:
            self._lines = self._open(self._path)
        if columns is not None:
            if self._columns is None:
                self._columns = self._open(_columns_path(self._path))
            data = b"".join(columns)
            # The line break is for whoever takes off half a stretch; readers go by the line's numbers.
            start = checked_lines.append_bytes(self._columns, data + b"\n")
            event["columns"] = [start, [len(c) for c in columns], zlib.crc32(data)]
            if routes is not None:
                event["routes"] = routes.shape[1:]
        checked_lines.append(self._lines, event)

    def _open(self, path: Path) -> io.FileIO:
        try:
            return checked_lines.open_for_append(path)
        except checked_lines.BusyError:
            raise ConfigError(
                f"{path}: another process is writing to it; wait until it has ended, or give another place"
            ) from None


_VERDICT = ("correct", "reason", "terms")
_REQUIRED = {
    f.name
    for f in dataclasses.fields(Trajectory)
    if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
}


class History:
    """What a journal holds, from all its parts but some. Episodes that ended stay on disk until they are asked for."""

    def __init__(self, path: Path, without: Collection[Path] = ()):
        self.unfinished: dict[str, Unfinished] = {}
        self.verdicts: dict[str, Verdict] = {}
        self.left_out: set[str] = set()
        self.damaged = 0  # lines and columns that count as never written
        self._ended: dict[str, tuple[Path, int, int]] = {}
        for part in parts(path):
            if part not in without:
                self._read(part)

    def _read(self, part: Path) -> None:
        wrong = []
        for number, start, text in checked_lines.read_lines(part):
            try:
                if text is None:
                    raise ValueError("it does not fit its checksum")
                self._take(part, json.loads(text), (start, len(text)))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                wrong.append((number, error))
        if wrong:
            self.damaged += len(wrong)
            (number, error), more = wrong[0], f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            logger.warning("%s:%d: a damaged line%s, taken for never written: %s", part, number, more, error)

    def _take(self, part: Path, event: dict[str, Any], place: tuple[int, int]) -> None:
        kind, episode = event["event"], event.get("episode", "")
        if kind == "left_out":
            self.left_out.update(event["episodes"])
        elif kind == "verdict":
            self.verdicts[episode] = Verdict(event["correct"], event["reason"], event["terms"])
        elif kind == "end":
            _check_end(event)
            _columns(part, event)
            self._ended[episode] = (part, *place)
            if event["stop"] != Stop.INFRASTRUCTURE:  # that one is tried again from where it broke
                self.unfinished.pop(episode, None)
        elif kind == "call":
            fields = {k: v for k, v in event.items() if k not in ("event", "episode", "request", "at")}
            self.unfinished.setdefault(episode, Unfinished()).calls[event["request"]] = fields
        elif kind == "turn":
            tokens, logprobs, routes = _columns(part, event)
            turn = Turn(
                tuple(tokens.tolist()),
                tuple(logprobs.tolist()),
                event["complete"],
                versions=tuple(v for v, count in event.get("versions", ()) for _ in range(count)),
                routes=routes,
            )
            self.unfinished.setdefault(episode, Unfinished()).turns[event["context"]] = turn
        elif kind != "ask":
            raise ValueError(f"its event is {kind!r}, which this version does not write")

    def finished(self, episode: str) -> bool:
        """Whether nothing is left to do for the episode: it ended and was judged, or it was left out."""
        if episode not in self._ended:
            return False
        verdict = self.verdicts.get(episode)
        return episode in self.left_out or (verdict is not None and verdict.correct is not None)

    def __iter__(self) -> Iterator[str]:
        return iter(self._ended)

    def trajectory(self, episode: str) -> Trajectory | None:
        """The episode with its verdict; None where it did not end, or what it left is damaged."""
        if episode not in self._ended:
            return None
        part, start, length = self._ended[episode]
        with part.open("rb") as file:
            file.seek(start)
            event = json.loads(file.read(length))
        try:
            return _trajectory(event, *_columns(part, event), self.verdicts.get(episode))
        except (ValueError, KeyError, TypeError) as error:
            self.damaged += 1
            logger.warning("%s: episode %s counts as never run: %r", part, episode, error)
            return None

    def require(self, episode: str) -> Trajectory:
        """The episode, which somebody has seen here already."""
        trajectory = self.trajectory(episode)
        assert trajectory is not None, f"episode {episode} is not in the journal that it was written to"
        return trajectory

    def trajectories(self) -> Iterator[Trajectory]:
        """All that ended, in the order in which they did."""
        return (t for t in map(self.trajectory, self._ended) if t is not None)


def read(path: Path) -> list[Trajectory]:
    """The episodes of a journal that ended."""
    return list(History(path).trajectories())


def write(path: Path, trajectories: Iterable[Trajectory]) -> None:
    """Appends whole episodes and what was said of them."""
    with Journal(path) as journal:
        for trajectory in trajectories:
            journal.end(trajectory)
            journal.verdict(trajectory.id, Verdict(trajectory.correct, trajectory.reason, trajectory.terms))


def _columns_path(path: Path) -> Path:
    return path.with_suffix(".columns")


def _pack(tokens: np.ndarray, logprobs: np.ndarray, routes: np.ndarray | None) -> list[bytes]:
    columns = [tokens.astype("<i4").tobytes(), logprobs.astype("<f4").tobytes()]
    return columns if routes is None else [*columns, routes.astype("<i2").tobytes()]


def _check_end(event: Mapping[str, Any]) -> None:
    """Raises ValueError or KeyError for the end of an episode as this version would not have written it."""
    if missing := _REQUIRED - event.keys():
        raise ValueError(f"{min(missing)} is missing")
    Stop(event["stop"])
    said = event["segments"]
    count = sum(segment["tokens"] for segment in said if Source(segment["source"]) and "messages" in segment)
    if 4 * count != event["columns"][1][0]:
        raise ValueError(f"its segments have {count} tokens, and {event['columns'][1][0] // 4} were written")


def _columns(part: Path, event: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """tokens int32, log-probs float32 of what was sampled, routes. Raises ValueError where they are damaged."""
    start, sizes, checksum = event["columns"]
    data, path = b"", _columns_path(part)
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        file.seek(start)
        data = file.read(sum(sizes))
    if len(data) != sum(sizes) or zlib.crc32(data) != checksum:
        raise ValueError(f"its tokens in {path.name} are damaged")
    tokens = np.frombuffer(data, "<i4", sizes[0] // 4)
    logprobs = np.frombuffer(data, "<f4", sizes[1] // 4, sizes[0])
    if "routes" not in event:
        return tokens, logprobs, None
    routes = np.frombuffer(data, "<i2", sizes[2] // 2, sizes[0] + sizes[1])
    return tokens, logprobs, routes.reshape(-1, *event["routes"])


def _trajectory(
    event: Mapping[str, Any],
    tokens: np.ndarray,
    logprobs: np.ndarray,
    routes: np.ndarray | None,
    verdict: Verdict | None,
) -> Trajectory:
    segments, place, sampled = [], 0, 0
    for said in event["segments"]:
        source, end = Source(said["source"]), place + said["tokens"]
        until = sampled + said["tokens"] if source is Source.POLICY else sampled
        segments.append(
            Segment(
                source,
                tuple(tokens[place:end].tolist()),
                tuple((role, content) for role, content in said["messages"]),
                tuple(logprobs[sampled:until].tolist()),
                said.get("hides"),
            )
        )
        place, sampled = end, until
    own = {f.name: event[f.name] for f in dataclasses.fields(Trajectory) if f.name in event}
    own |= {"stop": Stop(event["stop"]), "segments": tuple(segments), "turns": _turns(event["turns"])}
    own |= {"routes": routes, "correct": None}
    return Trajectory(**own | (vars(verdict) if verdict else {}))


def context_deltas(turns: Iterable[TurnContext]) -> Iterator[tuple[int, int, list[int], int]]:
    """(segment, how much of the last context it keeps, what follows that, attempt) of each turn."""
    before: tuple[int, ...] = ()
    for turn in turns:
        kept = next(
            (i for i, (a, b) in enumerate(zip(before, turn.context, strict=False)) if a != b),
            min(len(before), len(turn.context)),
        )
        yield turn.segment, kept, list(turn.context[kept:]), turn.attempt
        before = turn.context


def _turns(deltas: Iterable[tuple[int, int, list[int], int]]) -> tuple[TurnContext, ...]:
    turns, context = [], ()
    for segment, kept, added, attempt in deltas:
        context = (*context[:kept], *added)
        turns.append(TurnContext(segment, context, attempt))
    return tuple(turns)
