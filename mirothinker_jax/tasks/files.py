"""Questions from files: JSON Lines, plain or gzip, and Parquet tables.

    {"id": "q7", "question": "Who …?", "answer": "Ada", "files": ["q7/table.xlsx"], "level": 2}

`task_id`, `task_question`, `ground_truth` and `file_name` (one attachment) mean the same. All other keys are metadata.
A member that is null counts as absent. A number as an answer becomes its text; one of more digits than a double has
must be written as a string. The whole file is read and checked at once and stays in memory.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mirothinker_jax.data.paths import Content, named_files, refuse_empty
from mirothinker_jax.data.record_files import READABLE, numbered_records
from mirothinker_jax.data.strict_json import DataError, kind, without_nulls
from mirothinker_jax.tasks.types import Task

_OTHER_NAMES = {"id": "task_id", "question": "task_question", "answer": "ground_truth", "files": "file_name"}
_ID_CHARS = 200


class Located(NamedTuple):
    """A task, and the FILE:LINE where it stands."""

    task: Task
    where: str


def read_tasks(
    path: str, key: str, answer_problem: Callable[[str], str] = lambda answer: ""
) -> list[Located]:
    """The tasks of all files that `path` names (globs and commas, as in data.path), in their order.

    Args:
      key: of the setting that names them, for errors.
      answer_problem: what is wrong with a reference, "" where nothing is; asked with "" where a task has none.

    Raises:
      DataError: FILE:LINE: field: what is wrong; way out.
    """
    tasks: list[Located] = []
    seen: dict[str, str] = {}
    parts = [path] if os.path.lexists(path) else path.split(",")  # a file's name may hold a comma
    for part in filter(None, map(str.strip, parts)):
        for file, form in named_files(part, Content(key, "question", READABLE)):
            before = len(tasks)
            for line, record in numbered_records(file, form, "question"):
                where = f"{file}:{line}"
                try:
                    task = standard_task(record, Path(file).parent, answer_problem)
                    if task.id in seen:
                        raise DataError(_said_twice(task, record, seen[task.id]))
                except DataError as error:
                    raise DataError(f"{where}: {error}") from None
                seen[task.id] = where
                tasks.append(Located(task, where))
            refuse_empty(file, len(tasks) - before, "question")
    if not tasks:
        raise DataError(f"{key} {path!r} names no file; give {READABLE}")
    return tasks


def refuse_shared(train: Sequence[Located], heldout: Sequence[Located]) -> None:
    """Raises DataError where a held-out question is one that is trained on."""
    places = {" ".join(task.question.split()): where for task, where in train}
    for task, where in heldout:
        trained = places.get(" ".join(task.question.split()))
        if trained is not None:
            raise DataError(
                f"{where}: question: also stands in {trained}, and what is trained on measures nothing; take it out "
                "of one of them"
            )


def standard_task(
    record: Any, folder: Path, answer_problem: Callable[[str], str] = lambda answer: ""
) -> Task:
    """The task that a record of the standard form says, with attachments from `folder`; `answer_problem` as in
    `read_tasks`. Raises DataError, without the place."""
    if not isinstance(record, dict):
        raise DataError(f'record: is {kind(record)}; each is {{"question": …, "answer": …}}')
    record = {key: without_nulls(value, key) for key, value in record.items() if value is not None}
    names = {name: _name(record, name) for name in _OTHER_NAMES}
    question = record.pop(names["question"], None)
    if question is None:
        raise DataError('question: is missing; each record is {"question": …, "answer": …}')
    question = _text(question, names["question"])
    if not question.strip():
        raise DataError(f"{names['question']}: is empty; write it, or take the record out")
    answer = _text(record.pop(names["answer"], ""), names["answer"], numbers=True)
    if problem := answer_problem(answer):
        raise DataError(f"{names['answer']}: {problem}")
    files = _attachments(record.pop(names["files"], None), names["files"], folder)
    return Task(_id(record.pop(names["id"], None), names["id"], question), question, answer, files, record)


def _name(record: dict[str, Any], name: str) -> str:
    """The one of a field's two names that the record uses."""
    other = _OTHER_NAMES[name]
    if name in record and other in record:
        raise DataError(f"{name}: stands there as {other!r}, too; keep one of them")
    return other if other in record else name


def _text(value: Any, name: str, numbers: bool = False) -> str:
    if numbers and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise DataError(f"{name}: is {kind(value)}; write it as a string")
    return value


def _id(value: Any, name: str, question: str) -> str:
    """As it is given, else from the question, so that it stays when lines are moved."""
    if value is None:
        return f"q-{hashlib.sha256(question.encode()).hexdigest()[:16]}"
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else _text(value, name)
    if not text.strip() or not text.isprintable() or len(text) > _ID_CHARS:
        raise DataError(
            f"{name}: is {text[:_ID_CHARS]!r}; give 1 … {_ID_CHARS} printable characters, or leave it out"
        )
    return text


def _said_twice(task: Task, record: dict[str, Any], where: str) -> str:
    name = _name(record, "id")
    if record.get(name) is None:
        return f"question: is that of {where}; take one of them out, or give both an id"
    return f"{name}: is {task.id!r}, as in {where}; each task needs its own"


def _attachments(value: Any, name: str, folder: Path) -> tuple[str, ...]:
    """Paths from `folder`. Raises DataError for what is no file that can be read."""
    if value is None or value == "":
        return ()
    paths = [value] if name == _OTHER_NAMES["files"] else value
    if not isinstance(paths, list) or not all(isinstance(path, str) and path for path in paths):
        form = "a string" if name == _OTHER_NAMES["files"] else "a list of strings"
        raise DataError(f"{name}: is {kind(value)}; give paths from {folder}, as {form}")
    found = [folder / path for path in paths]
    for path in found:
        if path.is_dir():
            raise DataError(f"{name}: {path} is a folder; name the files in it")
        if not path.is_file():
            raise DataError(f"{name}: there is no file {path}; paths are from the folder of the questions")
        if not os.access(path, os.R_OK):
            raise DataError(f"{name}: {path} cannot be read; see to its permissions")
    return tuple(map(str, found))
