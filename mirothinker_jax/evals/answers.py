"""answers.jsonl of an evaluation: a line an episode, for people, scripts and comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mirothinker_jax.config_tree import ConfigError
from mirothinker_jax.data.atomic import write_json_lines
from mirothinker_jax.data.jsonl import plain_records
from mirothinker_jax.data.strict_json import DataError
from mirothinker_jax.trajectory.types import Trajectory

NAME = "answers.jsonl"


def write_answers(folder: Path, trajectories: Sequence[Trajectory]) -> None:
    """The episodes of `measure.question_specs`, whole or not at all."""
    write_json_lines(folder / NAME, map(_line, trajectories))


def read_answers(folder: Path) -> dict[str, list[dict[str, Any]]] | None:
    """The lines that were judged, by question, in the order of the runs; None where there is no such file.

    Raises ConfigError for one that is not what `write_answers` wrote.
    """
    path = folder / NAME
    if not path.exists():
        return None
    found: dict[str, list[dict[str, Any]]] = {}
    try:
        for _, record in plain_records(str(path)):
            if record["correct"] is not None:
                found.setdefault(record["question_id"], []).append(record)
    except (KeyError, TypeError, DataError) as error:
        raise ConfigError(
            f"{path}: is not what the evaluate command wrote ({error}); the same command writes it anew"
        ) from None
    return found


def _line(t: Trajectory) -> dict[str, Any]:
    # The reference of an encoded question is as its file has it, and its words stay in the journal.
    encoded = "cipher" in t.metadata
    return {
        "question_id": t.question_id,
        "run": int(t.id.rpartition("#")[2]),
        "question": None if encoded else t.question,
        "expected": t.expected,
        "answer": t.answer,
        "correct": t.correct,
        "reason": t.reason,
        "stop": str(t.stop),
        "calls": t.calls,
    }
