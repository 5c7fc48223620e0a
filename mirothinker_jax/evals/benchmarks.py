"""The questions of a benchmark, from its file as it was published.

Encoded benchmarks are decoded in memory, and no decoded copy is written. Their tasks carry the question in clear, for
it must be asked, and the reference as the file has it: whoever grades decodes it (`open_reference`). So a journal never
holds such a reference in clear, and it holds the canary by which its episodes can be found in training data.

Not safe: an episode's own words may repeat the reference.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mirothinker_jax.config import TasksConfig
from mirothinker_jax.config_tree import check, one_of
from mirothinker_jax.data.strict_json import DataError, kind
from mirothinker_jax.evals.catalogue import BENCHMARKS, OWN, Benchmark
from mirothinker_jax.evals.ciphers import decode
from mirothinker_jax.evals.tables import read_rows
from mirothinker_jax.tasks.files import read_tasks, standard_task
from mirothinker_jax.tasks.graders import reference_problem
from mirothinker_jax.tasks.types import Task

# Key of a standard record → its other name, which a benchmark in the standard form uses.
_STANDARD = {
    "id": "task_id",
    "question": "task_question",
    "answer": "ground_truth",
    "file": "file_name",
    "image": "",
}
_CANARY = "canary"
_PICTURES = ("image_preview", "rationale_image")  # of HLE's Parquet file: half of its bytes


@dataclass(frozen=True)
class Questions:
    """What a benchmark's file holds.

    Attributes:
      remarks: a line each of what whoever compares figures must know.
      digest: SHA-256 of the file.
    """

    tasks: tuple[Task, ...]
    remarks: tuple[str, ...] = ()
    digest: str = ""


def read_benchmark(name: str, path: str) -> Questions:
    """The questions of the benchmark `name` (of BENCHMARKS) in the file `path`. "questions" is a file of one's own in
    the standard form, and `path` may name several as in tasks/files.py.

    Raises:
      ConfigError: an unknown benchmark.
      DataError: FILE:LINE: column: what is wrong; way out.
    """
    one_of("the benchmark", name, tuple(BENCHMARKS))
    benchmark = BENCHMARKS[name]
    if name == OWN:
        tasks = tuple(located.task for located in read_tasks(path, "the benchmark's file"))
        return Questions(tasks, digest=_digest(path) if Path(path).is_file() else "")
    rows = [(number, _flat(row)) for number, row in read_rows(path, ignore=_PICTURES)]
    columns = _columns(benchmark, path, {key for _, row in rows for key in row})
    tasks, seen, pictures, unknown = [], {}, 0, 0
    for number, row in rows:
        where = f"{path}:{number}"
        picture = "image" in columns and bool(row.get(columns["image"]))
        if picture and benchmark.text_only:
            continue
        try:
            task = _task(benchmark, columns, row, Path(path).parent, picture)
            if task.id in seen and "id" in columns:
                raise DataError(f"{columns['id']}: is that of {seen[task.id][0]}; keep one of them")
        except DataError as error:
            raise DataError(f"{where}: {error}") from None
        seen.setdefault(task.id, []).append(where)
        if (again := len(seen[task.id])) > 1:  # a published file may ask the same twice
            task = dataclasses.replace(task, id=f"{task.id}-{again}")
        if benchmark.scored and not open_reference(task).answer.strip():
            unknown += 1
            continue
        pictures += picture
        tasks.append(task)
    if not tasks:
        raise DataError(f"{path}: file: holds no question that can be asked and graded; fetch it anew")
    return Questions(tuple(tasks), tuple(_remarks(benchmark, len(tasks), pictures, unknown)), _digest(path))


def open_reference(task: Task) -> Task:
    """The task with its reference in clear, for whoever grades; in memory only."""
    if "cipher" not in task.metadata:
        return task
    answer = decode(task.answer, task.metadata[_CANARY], task.metadata["cipher"])
    return dataclasses.replace(task, answer=answer)


def exportable(metadata: Sequence[Mapping[str, Any]], allow_encoded: bool) -> list[str]:
    """The canaries of the encoded questions among these tasks' or episodes' metadata, each once: what an export must
    say, so that it can be found in training data.

    Raises ConfigError where there are some, and the user did not say that they may be written in clear.
    """
    marks = sorted({m[_CANARY] for m in metadata if "cipher" in m})
    check(
        allow_encoded or not marks,
        "these questions were published encoded, and an export would write them in clear; give --allow-encoded, keep "
        f"the file to yourself, and leave its canary in it ({marks[0] if marks else ''})",
    )
    return marks


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """With the members of "metadata" beside the others, as the standard form may have them."""
    inner = row.get("metadata")
    return {**inner, **row} if isinstance(inner, dict) else dict(row)


def _columns(benchmark: Benchmark, path: str, found: set[str]) -> dict[str, str]:
    """Key of a standard record → the file's column; keys without one are left out."""
    columns: dict[str, str] = {}
    for key, standard in _STANDARD.items():
        names = getattr(benchmark, key)
        if not names:
            continue
        names = (*names, standard) if standard and not benchmark.cipher else names
        column = next((name for name in names if name in found), None)
        if column is not None:
            columns[key] = column
        elif key in ("question", "answer"):
            raise DataError(
                f"{path}: header: has no column {' or '.join(map(repr, names))}, but "
                f"{', '.join(map(repr, sorted(found)))}; give the file of {benchmark.title} as it was published"
            )
    if benchmark.cipher and _CANARY not in found:
        raise DataError(
            f"{path}: header: has no column {_CANARY!r}; give the encoded file of {benchmark.title}, as published"
        )
    return columns


def _task(
    benchmark: Benchmark, columns: Mapping[str, str], row: Mapping[str, Any], folder: Path, picture: bool
) -> Task:
    record = {key: row.get(columns[key]) for key in ("id", "question") if key in columns}
    record["id"] = record.get("id") if record.get("id") != "" else None
    if "answer" in columns:
        record["answer"] = _reference(row.get(columns["answer"]), columns["answer"])
    if "file" in columns:
        record["file_name"] = row.get(columns["file"])
    metadata = {key: row[column] for key, column in benchmark.metadata.items() if row.get(column) is not None}
    if picture:
        metadata["picture"] = True
    encoded = record.get("answer")
    if benchmark.cipher:
        canary = row.get(_CANARY)
        if not isinstance(canary, str) or not canary.strip():
            raise DataError(f"{_CANARY}: is empty; fetch the file anew")
        columns_of = {"question": columns["question"], "answer": columns["answer"]}
        for key, column in columns_of.items():
            record[key] = _decoded(record.get(key), column, canary, benchmark.cipher)
        for key, column in benchmark.metadata.items():
            if column in benchmark.encoded and key in metadata:
                metadata[key] = _decoded(metadata[key], column, canary, benchmark.cipher)
        metadata |= {_CANARY: canary, "cipher": benchmark.cipher}
    try:
        task = standard_task(
            {**metadata, **record}, folder, lambda answer: _reference_problem(benchmark, answer)
        )
    except DataError as error:
        field, colon, what = str(error).partition(":")
        names = {**columns, "file_name": columns.get("file", "")}
        raise DataError(f"{names.get(field, field)}{colon}{what}") from None
    return dataclasses.replace(task, answer=encoded) if benchmark.cipher else task


def _reference(value: Any, column: str) -> Any:
    """A list of one text is that text."""
    if isinstance(value, list):
        if len(value) != 1:
            raise DataError(f"{column}: is a list of {len(value)}; write the reference as one text")
        return value[0]
    return value


def _decoded(text: Any, column: str, canary: str, cipher: str) -> str:
    if not isinstance(text, str):
        raise DataError(f"{column}: is {kind(text)}, not an encoded text; fetch the file anew")
    try:
        return decode(text, canary, cipher)
    except ValueError as error:
        raise DataError(f"{column}: {error}; fetch the file anew") from None


def _reference_problem(benchmark: Benchmark, answer: str) -> str:
    return reference_problem(TasksConfig(grader=benchmark.rule), answer) if benchmark.rule else ""


def _remarks(benchmark: Benchmark, count: int, pictures: int, unknown: int) -> list[str]:
    remarks = []
    if benchmark.sizes and count not in benchmark.sizes:
        sizes = " or ".join(f"{size:,}" for size in benchmark.sizes)
        remarks.append(f"{count:,} questions, and {benchmark.title} as published has {sizes}")
    if unknown:
        remarks.append(f"{unknown:,} questions have no reference, and are left out")
    if pictures:
        remarks.append(f"{pictures:,} questions have a picture, which is not shown")
    return remarks


def _digest(path: str) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
