"""report.html of an evaluation: every question, every episode, in one file that needs nothing else.

Reads the journals of the folder, and manifest.json and summary.json where they are there. May be written while the
evaluation is on. The table has all episodes; their texts and tokens are in the page as long as it stays below a number
of bytes, run after run. The rest is counted, and shown by a page of those questions alone.
"""

from __future__ import annotations

import itertools
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from markupsafe import Markup

from mirothinker_jax.config_tree import flat
from mirothinker_jax.data.atomic import replacing
from mirothinker_jax.evals.calls_chart import calls_chart
from mirothinker_jax.evals.episodes import (
    Decode,
    Episodes,
    episode_record,
    has_logprobs,
    journals,
    read_episodes,
    run_of,
    token_record,
)
from mirothinker_jax.evals.page import chunk, template
from mirothinker_jax.evals.repeated import accuracy, by_question
from mirothinker_jax.evals.summary import read_json
from mirothinker_jax.trajectory.timeline import CallTime
from mirothinker_jax.trajectory.types import Trajectory

MOST_BYTES = 64 << 20


@dataclass
class _Page:
    """What is known of all episodes before the first of them is written."""

    order: list[tuple[str, int, str]] = field(
        default_factory=list
    )  # (run, number, id): first runs come first
    questions: dict[str, dict[str, Any]] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    written: set[str] = field(default_factory=set)


def write_evaluation_report(
    folder: str | os.PathLike[str],
    *,
    name: str = "report.html",
    questions: Collection[str] | None = None,
    decode: Decode | None = None,
    most_bytes: int = MOST_BYTES,
) -> Path:
    """Writes `folder`/`name`, whole or not at all, and returns its path.

    Args:
      questions: ids of those to show; None: all.
      decode: ids of tokens → text; without it, the page shows ids beside their log-probs.
      most_bytes: of the episodes that are in the page.

    Raises ValueError where manifest.json or summary.json is not JSON.
    """
    folder = Path(folder)
    manifest, summary = (read_json(folder / name) for name in ("manifest.json", "summary.json"))
    settings = manifest.get("settings", {})
    told = {"call_format": settings.get("data.call_format")}
    told |= {"unit": "character" if "chars_per_token" in settings else "token"}
    episodes = read_episodes(journals(folder))
    page, tools = _Page(), _Tools()
    for trajectory in episodes.ended():
        if questions is None or trajectory.question_id in questions:
            _add(page, trajectory)
            times = episodes.times.get(trajectory.id)
            tools.add(times.calls.values() if times else ())
    chart = calls_chart(tools.all())
    runs = sorted({row["run"] for row in page.rows}, key=lambda run: (len(run), run))
    for row in page.rows:
        row["run"] = runs.index(row["run"])
    asked = {question: place for place, question in enumerate(manifest.get("tasks", {}))}
    order = sorted(page.questions, key=lambda question: asked.get(question, len(asked)))
    for place, question in enumerate(order):
        page.questions[question]["order"] = place
    for row in page.rows:
        row["question"] = page.questions[row["question"]]["order"]
    notes = _notes(episodes, manifest, len(page.rows)) if questions is None else []
    parts = template("evaluation.html.j2", "viewer.js", "timeline.js", "page.js", "questions.js").generate(
        title=folder.resolve().name,
        runs=[_verdicts([r for r in page.rows if r["run"] == i], run) for i, run in enumerate(runs)],
        whole=_verdicts(page.rows, ""),
        comparable=summary.get("benchmark", {}).get("comparable") if questions is None else None,
        stops=Counter(row["stop"] for row in page.rows).most_common(),
        tools=tools.rows(),
        calls=chart and chart._replace(svg=Markup(chart.svg)),
        manifest=flat({k: v for k, v in manifest.items() if k not in ("tasks", "files")}),
        summary=flat(summary),
        notes=notes,
        chunks=_chunks(episodes, page, decode, told, most_bytes),
        index=lambda: chunk(
            {
                "questions": [page.questions[q] for q in order],
                "episodes": page.rows,
                "runs": runs,
                "unit": told["unit"],
            }
        ),
        left_out=lambda: len(page.rows) - len(page.written),
    )
    path = folder / name
    with replacing(path) as scratch, scratch.open("w", encoding="utf-8") as file:
        file.writelines(parts)
    return path


def _add(page: _Page, t: Trajectory) -> None:
    """A line of the table."""
    page.questions.setdefault(
        t.question_id, {"id": t.question_id, "question": t.question, "expected": t.expected}
    )
    number = len(page.rows)
    page.order.append((run_of(t), number, t.id))
    told = {"name": f"e{number}", "id": t.id, "question": t.question_id, "run": run_of(t)}
    told |= {"correct": t.correct, "answer": t.answer, "stop": str(t.stop), "calls": t.calls}
    page.rows.append(told | {"failed": t.failed_calls, "tokens": t.tokens})


def _chunks(
    episodes: Episodes, page: _Page, decode: Decode | None, told: Mapping[str, Any], most_bytes: int
) -> Iterator[tuple[str, str]]:
    """(id, chunk) of each episode and of its tokens, as long as there is room."""
    by_id = {t: history for history in episodes.histories for t in history}
    left = most_bytes
    for _, number, name in sorted(page.order, key=lambda place: (len(place[0]), *place)):
        trajectory = by_id[name].trajectory(name)
        if trajectory is None:
            continue
        record = chunk(episode_record(trajectory, episodes.times.get(name), **told))
        tokens = chunk(token_record(trajectory, decode)) if has_logprobs(trajectory) else ""
        left -= len(record) + len(tokens)
        if left < 0:
            return
        page.written.add(name)
        yield f"episode-e{number}", record
        if tokens:
            yield f"tokens-e{number}", tokens


def _verdicts(rows: list[dict[str, Any]], run: str) -> dict[str, Any]:
    counts = Counter(row["correct"] for row in rows)
    scores = by_question((row["question"], row["correct"]) for row in rows)
    return {
        "run": run,
        "accuracy": accuracy(scores) if scores else None,
        "questions": len(scores),
        "right": counts[True],
        "wrong": counts[False],
        "unjudged": counts[None],
    }


def _notes(episodes: Episodes, manifest: Mapping[str, Any], ended: int) -> list[str]:
    notes = []
    if episodes.damaged:
        notes.append(
            f"{episodes.damaged} line(s) or episode(s) of the journal could not be read and are left out."
        )
    if episodes.unfinished:
        these = "1 episode has" if episodes.unfinished == 1 else f"{episodes.unfinished} episodes have"
        notes.append(f"{these} begun and not ended.")
    asked = manifest.get("runs", 0) * len(manifest.get("tasks", {}))
    if ended < asked:
        notes.append(f"{ended} of {asked} episodes have ended.")
    return notes


class _Tools:
    """Figures of each tool over all episodes."""

    def __init__(self) -> None:
        self._calls: dict[str, list[CallTime]] = defaultdict(list)

    def add(self, calls: Iterable[CallTime]) -> None:
        for call in calls:
            if call.ended is not None:
                self._calls[f"{call.server} / {call.tool}" if call.server else call.tool].append(call)

    def all(self) -> Iterator[CallTime]:
        """Every call that ended."""
        return itertools.chain.from_iterable(self._calls.values())

    def rows(self) -> list[dict[str, Any]]:
        """Most used first. Seconds are of the calls that were made, not of those answered from memory."""
        rows = []
        for name, calls in sorted(self._calls.items(), key=lambda item: -len(item[1])):
            made = sorted(call.running_s for call in calls if not call.cached) or [0.0]
            rows.append(
                {
                    "name": name,
                    "calls": len(calls),
                    "failures": Counter(c.failure for c in calls if c.failure).most_common(),
                    "cached": sum(call.cached for call in calls),
                    "cut": sum(call.truncated for call in calls),
                    "running_s": median(made),
                    "slow_s": made[int(0.95 * (len(made) - 1))],
                    "waiting_s": median([call.waiting_s or 0.0 for call in calls]),
                }
            )
        return rows
