"""Episodes in the log format of inspect_ai (version 2, JSON), so that `inspect view` shows them.

    pip install 'mirothinker-jax[view]'
    inspect view --log-dir FOLDER

An episode is a sample, and its run an epoch. Its messages are those of the last attempt, with every result as it came;
thoughts are reasoning, and calls are calls where the call format can be read. `inspect view` lists files whose names
begin with a time, so the name is given here. No events are written: with an input for
each of them, an episode of hundreds of calls takes hundreds of megabytes, which the viewer drops.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mirothinker_jax.agent.wire.formats import WIRES
from mirothinker_jax.agent.wire.turn import ParsedTurn
from mirothinker_jax.data.atomic import replacing
from mirothinker_jax.evals.benchmarks import exportable
from mirothinker_jax.tools.spec import ToolCall
from mirothinker_jax.trajectory.types import Stop, Trajectory

_SCORER = "graded"
_THOUGHT = re.compile(r"\s*<think>(.*?)(?:</think>|\Z)", re.DOTALL)


def write_inspect_log(
    folder: str | os.PathLike[str],
    runs: Sequence[Sequence[Trajectory]],
    *,
    task: str,
    model: str,
    created: datetime.datetime,
    call_format: str,
    figures: Mapping[str, Any] | None = None,
    allow_encoded: bool = False,
) -> Path:
    """Writes the episodes of each run to a file in `folder`, and returns its path: the same for the same `task`,
    `model` and `created`.

    Args:
      created: with its time zone.
      figures: of evals/figures.py; its numbers become the metrics.
      allow_encoded: also write episodes whose questions were encoded, in clear.

    Raises:
      ConfigError: there are such episodes, and they are not allowed.
    """
    marks = exportable([t.metadata for run in runs for t in run], allow_encoded)
    samples = [_sample(t, epoch, call_format, model) for epoch, run in enumerate(runs, 1) for t in run]
    when = created.isoformat()
    key = hashlib.sha256(f"{when} {task} {model}".encode()).hexdigest()[:22]
    log = {
        "version": 2,
        "status": "success",
        "eval": {
            "eval_id": key,
            "run_id": key,
            "task_id": key,
            "task": task,
            "created": when,
            "dataset": {"name": task, "samples": max(map(len, runs), default=0)},
            "model": model,
            "config": {"epochs": len(runs)},
            "metadata": {"canary": marks} if marks else {},
        },
        "results": _results(len(samples), figures or {}),
        "stats": {"started_at": when, "completed_at": when},
        "samples": samples,
    }
    path = Path(folder) / f"{created:%Y-%m-%dT%H-%M-%S}_{re.sub('[^A-Za-z0-9-]', '-', task)}_{key}.json"
    with replacing(path) as scratch:
        # inspect_ai refuses a file with half a surrogate pair, which pages may hold.
        scratch.write_text(json.dumps(log, ensure_ascii=False) + "\n", encoding="utf-8", errors="replace")
    return path


def _results(count: int, figures: Mapping[str, Any]) -> dict[str, Any]:
    numbers = {k: v for k, v in figures.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
    metrics = {name: {"name": name, "value": value} for name, value in numbers.items()}
    scores = [{"name": _SCORER, "scorer": _SCORER, "metrics": metrics}]
    return {"total_samples": count, "completed_samples": count, "scores": scores}


def _sample(trajectory: Trajectory, epoch: int, call_format: str, model: str) -> dict[str, Any]:
    t = trajectory
    messages = list(_messages(t, call_format))
    last = next((m for m in reversed(messages) if m["role"] == "assistant"), None)
    sample = {
        "id": t.question_id,
        "epoch": epoch,
        "input": t.question,
        "target": t.expected,
        "messages": messages,
        "output": {"model": model, "choices": [{"message": last, "stop_reason": "stop"}] if last else []},
        "scores": {},
        "metadata": {
            **t.metadata,
            "episode": t.id,
            "stop": str(t.stop),
            "calls": t.calls,
            "failed_calls": t.failed_calls,
        },
    }
    if t.correct is not None:
        value = {"value": "C" if t.correct else "I", "answer": t.answer, "explanation": t.reason}
        sample["scores"] = {_SCORER: value | {"metadata": dict(t.terms)}}
    if t.stop is Stop.INFRASTRUCTURE:
        sample["error"] = {"message": t.reason or str(t.stop), "traceback": "", "traceback_ansi": ""}
    return sample


def _messages(trajectory: Trajectory, call_format: str) -> Iterator[dict[str, Any]]:
    waiting: list[dict[str, Any]] = []  # calls whose results come next, in their order
    for number, message in enumerate(trajectory.messages()):
        shown: dict[str, Any] = {"id": f"{trajectory.id}:{number}", **message}
        if message["role"] == "assistant":
            turn = WIRES[call_format].parse(message["content"])
            waiting = _calls(turn, shown["id"])
            shown["content"] = _content(message["content"], turn.words.strip())
            if waiting:
                shown["tool_calls"] = list(waiting)
        elif message["role"] == "tool" and waiting:
            call = waiting.pop(0)
            shown |= {"tool_call_id": call["id"], "function": call["function"]}
        yield shown


def _calls(turn: ParsedTurn, message: str) -> list[dict[str, Any]]:
    """Calls that make no call have a result, too: it says what is wrong with them."""
    found = []
    for place, call in enumerate(turn.calls):
        one = {"id": f"{message}.{place}", "type": "function"}
        if isinstance(call, ToolCall):
            found.append(one | {"function": call.tool, "arguments": dict(call.arguments)})
        else:
            found.append(one | {"function": "malformed", "arguments": {}, "parse_error": call.reason})
    return found


def _content(text: str, words: str) -> list[dict[str, str]] | str:
    """A thought at the front, and the words beside calls."""
    thought = _THOUGHT.match(text)
    if thought is None or not thought[1].strip():
        return words
    parts = [{"type": "reasoning", "reasoning": thought[1].strip()}]
    return parts + ([{"type": "text", "text": words}] if words else [])
