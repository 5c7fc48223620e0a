"""How far a run or an evaluation is, from the files that it writes while it is on.

Files are read on from where they were last read, so looking every second costs what was written in that second. What is
under way is what a journal says was asked and not answered; a process that was killed leaves such calls behind, and
`quiet_s` tells. Nothing is locked, and nothing is written. No jax here.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mirothinker_jax import checked_lines
from mirothinker_jax.config_tree import flat

RATE_S = 60.0  # tokens per second are of the last minute that anything was sampled in
RATE_ENDS = 200  # episodes per second, of the last so many


class Tail:
    """The whole lines of a file that were written since the last look."""

    def __init__(self, path: Path):
        self.path, self._place, self._inode = path, 0, 0

    def replaced(self) -> bool:
        """Whether the file is another one than at the last look, or a shorter one. It is then read from its start."""
        try:
            known = self.path.stat()
        except FileNotFoundError:
            return False
        anew = self._place > 0 and (known.st_ino != self._inode or known.st_size < self._place)
        if anew:
            self._place = 0
        return anew

    def lines(self) -> Iterator[bytes]:
        """New lines, with their line breaks."""
        try:
            with self.path.open("rb") as file:
                self._inode = os.fstat(file.fileno()).st_ino
                file.seek(self._place)
                for line in file:
                    if not line.endswith(b"\n"):
                        return
                    self._place += len(line)
                    yield line
        except FileNotFoundError:
            return


@dataclass
class Episodes:
    """Those of a journal. `failures` are calls by kind, `asked` the calls under way, as episode →
    request → (tool, since)."""

    turns: int = 0
    calls: int = 0
    damaged: int = 0
    last: float = 0.0  # when something happened, Unix seconds
    failures: Counter[str] = field(default_factory=Counter)
    stops: dict[str, str] = field(default_factory=dict)  # episode → why it ended
    verdicts: dict[str, bool | None] = field(default_factory=dict)
    going: set[str] = field(default_factory=set)
    asked: dict[str, dict[str, tuple[str, float]]] = field(default_factory=dict)
    sampled: deque[tuple[float, int]] = field(default_factory=deque)  # (when, tokens) of the last turns
    ends: deque[float] = field(default_factory=lambda: deque(maxlen=RATE_ENDS))

    def take(self, event: Mapping[str, Any]) -> None:
        """An event of the journal. Raises KeyError or TypeError for one that is none."""
        kind, episode, at = event["event"], event.get("episode", ""), event.get("at", 0.0)
        self.last = max(self.last, at)
        if kind == "verdict":
            self.verdicts[episode] = event["correct"]
        elif kind == "end":
            self.stops[episode] = event["stop"]
            self.going.discard(episode)
            self.asked.pop(episode, None)
            if at:
                self.ends.append(at)
        elif kind == "turn":  # the calls of the turn before are all answered, or were never to be
            self.turns += 1
            self.going.add(episode)
            self.asked[episode] = {}
            self.sampled.append((at, event["columns"][1][0] // 4))
            while self.sampled and self.sampled[0][0] < at - RATE_S:
                self.sampled.popleft()
        elif kind == "ask":
            tool = f"{event['server']}/{event['tool']}" if event["server"] else event["tool"]
            self.asked.setdefault(episode, {})[event["request"]] = (tool, at)
        elif kind == "call":
            self.calls += 1
            self.asked.get(episode, {}).pop(event["request"], None)
            if event["failure"]:
                self.failures[event["failure"]] += 1

    def figures(self, total: int | None, now: float) -> dict[str, Any]:
        """What there is to say. Shares are of the episodes that were judged; None where it is not known."""
        judged = [correct for correct in self.verdicts.values() if correct is not None]
        under_way = [call for calls in self.asked.values() for call in calls.values()]
        longest = min(under_way, key=lambda call: call[1], default=None)
        span = self.ends[-1] - self.ends[0] if len(self.ends) > 1 else 0.0
        rate = (len(self.ends) - 1) / span if span > 0 else None
        sampled_s = self.last - self.sampled[0][0] if len(self.sampled) > 1 else 0.0
        left = None if total is None else max(0, total - len(self.stops))
        return {
            "ended": len(self.stops),
            "total": total,
            "going": len(self.going),
            "accuracy": sum(judged) / len(judged) if judged else None,
            "judged": len(judged),
            "not_judged": sum(correct is None for correct in self.verdicts.values()),
            "turns": self.turns,
            "calls": self.calls,
            "failures": dict(self.failures.most_common()),
            "in_flight": len(under_way),
            "longest_in_flight": None if longest is None else [longest[0], round(now - longest[1], 1)],
            "stops": dict(Counter(self.stops.values()).most_common()),
            "sampled_per_s": round(sum(n for _, n in self.sampled) / sampled_s, 1) if sampled_s > 0 else None,
            "episodes_per_s": rate,
            "left_s": None if left is None or not rate else round(left / rate, 1),
            "damaged": self.damaged,
        }


class Progress:
    """Of a folder. `look` reads what is new in it."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time):
        self._folder, self._clock = folder, clock
        self._metrics, self._steps = Tail(folder / "metrics.jsonl"), deque[dict[str, Any]](maxlen=20)
        self._tails: dict[Path, Tail] = {}
        self._journals: dict[str, Episodes] = {}

    def look(self) -> dict[str, Any]:
        """`training`: the stage that was last logged; `episodes`: the journal that was last written to, by its name,
        with its figures. None where there is none."""
        self._read_metrics()
        settings, parts = self._settings(), list(self._parts())
        if not parts:
            return {"training": self._training(settings), "episodes": None}
        name = self._name(max(parts, key=_written))
        known = self._read_journal(name, [part for part in parts if self._name(part) == name])
        now = self._clock()
        episodes = {"journal": name} | known.figures(_total(name, settings), now)
        endpoint = "chars_per_token" in settings.get("settings", {})
        episodes["unit"] = "characters" if endpoint else "tokens"
        episodes["quiet_s"] = round(now - max(map(_written, parts)), 1)
        return {"training": self._training(settings), "episodes": episodes}

    def _read_metrics(self) -> None:
        if self._metrics.replaced():
            self._steps.clear()
        for line in self._metrics.lines():
            try:
                record = json.loads(line)
                if self._steps and self._steps[-1]["stage"] != record["stage"]:
                    self._steps.clear()
                self._steps.append({"step": int(record["step"]), "time_s": float(record["time_s"])} | record)
            except (ValueError, KeyError, TypeError):
                continue

    def _read_journal(self, name: str, parts: Sequence[Path]) -> Episodes:
        tails = [self._tails.setdefault(part, Tail(part)) for part in parts]
        if [tail for tail in tails if tail.replaced()]:
            self._journals.pop(name, None)
            tails = [Tail(part) for part in parts]
            self._tails |= {tail.path: tail for tail in tails}
        known = self._journals.setdefault(name, Episodes())
        for line in itertools.chain.from_iterable(tail.lines() for tail in tails):
            try:
                known.take(json.loads(checked_lines.checked(line) or b"null"))
            except (ValueError, KeyError, TypeError):
                known.damaged += 1
        return known

    def _name(self, part: Path) -> str:
        return _journal_name(part.relative_to(self._folder))

    def _parts(self) -> Iterator[Path]:
        for depth in ("*", "*/*", "*/*/*"):
            for columns in self._folder.glob(f"{depth}.columns"):
                if (part := columns.with_suffix(".jsonl")).is_file():
                    yield part

    def _settings(self) -> dict[str, Any]:
        found = {}
        for name in ("config.json", "manifest.json"):
            try:
                found |= json.loads((self._folder / name).read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
        return found

    def _training(self, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        if not self._steps:
            return None
        first, last = self._steps[0], self._steps[-1]
        total = flat(dict(settings)).get(f"{last['stage']}.training.steps") or None
        steps = last["step"] - first["step"]
        step_s = (last["time_s"] - first["time_s"]) / steps if steps > 0 else None
        done = last["step"] + 1
        shown = ("loss", "reward", "accuracy", "calls", "tokens_per_s", "rollout/sampled_tokens_per_s")
        return {
            "stage": last["stage"],
            "steps": done,
            "total": total,
            "step_s": step_s,
            "left_s": None if total is None or step_s is None else round(max(0, total - done) * step_s, 1),
            "quiet_s": round(self._clock() - last["time_s"], 1),
            **{name: last[name] for name in shown if last.get(name) is not None},
        }


def _written(path: Path) -> float:
    return path.stat().st_mtime


def _journal_name(part: Path) -> str:
    """
    >>> _journal_name(Path("grpo/rollouts/step_000003.0-of-2.jsonl"))
    'grpo/rollouts/step_000003'
    """
    stem, of, _ = part.stem.rpartition("-of-")
    return str(part.with_name(stem.rpartition(".")[0] if of else part.stem))


def _total(journal: str, settings: Mapping[str, Any]) -> int | None:
    """How many episodes the journal will have, where the settings say."""
    try:
        if "tasks" in settings and "runs" in settings:
            return settings["runs"] * len(settings["tasks"])
        if journal.endswith("eval_trajectories"):
            return settings["evaluation"]["questions"] * len(settings["evaluation"]["budgets"])
        if journal == "dpo/samples":
            return settings["dpo"]["questions"] * settings["dpo"]["samples"]
        if journal.startswith("grpo/rollouts"):
            return settings["grpo"]["questions"] * settings["grpo"]["group"]
    except (KeyError, TypeError):
        return None
    return None
