"""Questions read from files: both spellings of a record, and every way in which one is wrong, in one line."""

import gzip
import json

import pyarrow
import pytest
from pyarrow import parquet

from mirothinker_jax.config import TasksConfig
from mirothinker_jax.data.strict_json import DataError
from mirothinker_jax.tasks.files import read_tasks, refuse_shared
from mirothinker_jax.tasks.graders import reference_problem
from mirothinker_jax.tasks.types import Task

RECORDS = [
    {"id": "a", "question": "Who?", "answer": "Ada", "level": 2, "tags": ["x"]},
    {"task_id": 7, "task_question": "How many?", "ground_truth": 4390, "file_name": "t.csv", "note": None},
    {"question": "Où ?", "answer": "ici", "files": ["t.csv", "sub/u.txt"]},
]


def tasks_of(folder):
    return [
        Task("a", "Who?", "Ada", (), {"level": 2, "tags": ["x"]}),
        Task("7", "How many?", "4390", (f"{folder}/t.csv",)),
        Task("q-1f13ba3cfe35ffc4", "Où ?", "ici", (f"{folder}/t.csv", f"{folder}/sub/u.txt")),
    ]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "t.csv").write_text("a,b")
    (tmp_path / "sub" / "u.txt").write_text("u")
    return tmp_path


def lines(*records):
    return "".join(f"{json.dumps(record)}\n" for record in records).encode()


def read(folder, content, name="q.jsonl", **settings):
    path = folder / name
    path.write_bytes(content)
    config = TasksConfig(train=str(path), **settings)
    return [
        task
        for task, _ in read_tasks(
            config.train, "tasks.train", lambda answer: reference_problem(config, answer)
        )
    ]


def test_a_record_in_either_spelling_from_every_kind_of_file(folder):
    assert read(folder, b"\xef\xbb\xbf\r\n" + lines(*RECORDS).replace(b"\n", b"\r\n\r\n")) == tasks_of(folder)
    assert read(folder, gzip.compress(lines(*RECORDS)), "q.jsonl.gz") == tasks_of(folder)
    table = [{k: str(v) if k in ("task_id", "ground_truth") else v for k, v in r.items()} for r in RECORDS]
    columns = {key: [r.get(key) for r in table] for key in dict.fromkeys(k for r in table for k in r)}
    parquet.write_table(pyarrow.table(columns), folder / "q.parquet")
    found = read_tasks(str(folder / "q.parquet"), "tasks.train")
    assert [task for task, _ in found] == tasks_of(folder)
    assert [where for _, where in found] == [f"{folder}/q.parquet:{i}" for i in (1, 2, 3)]


def test_files_are_read_in_their_order_and_where_they_are(folder, monkeypatch):
    for name in ("b", "a", "c"):
        (folder / f"{name}.jsonl").write_bytes(lines({"question": name, "answer": 1}))
    monkeypatch.chdir(folder)
    (folder / "x").mkdir()
    (folder / "x" / "d.jsonl").write_bytes(lines({"question": "d", "answer": 1, "file_name": "../t.csv"}))
    found = read_tasks("c.jsonl, [ab].jsonl,x/d.jsonl", "tasks.train")
    assert [(task.question, where) for task, where in found] == [
        ("c", "c.jsonl:1"),
        ("a", "a.jsonl:1"),
        ("b", "b.jsonl:1"),
        ("d", "x/d.jsonl:1"),
    ]
    assert found[3].task.files == ("x/../t.csv",)


def test_an_id_that_is_not_given_stays_when_lines_are_moved(folder):
    first = read(folder, lines(*RECORDS, {"question": "New?", "answer": "1"}))
    again = read(folder, lines({"question": "New?", "answer": "2", "level": 3}, *RECORDS[::-1]))
    assert {task.id for task in first} == {task.id for task in again}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ([], "record: is a list; each is"),
        ({"answer": "x"}, "question: is missing"),
        ({"question": None, "answer": "x"}, "question: is missing"),
        ({"question": " \n", "answer": "x"}, "question: is empty"),
        ({"task_question": "", "answer": "x"}, "task_question: is empty"),
        ({"question": 3, "answer": "x"}, "question: is a number; write it as a string"),
        ({"question": "?"}, "answer: is missing, and only a grader of your own"),
        ({"question": "?", "ground_truth": " "}, "ground_truth: is missing"),
        ({"question": "?", "answer": True}, "answer: is a boolean; write it as a string"),
        ({"question": "?", "answer": ["a"]}, "answer: is a list; write it as a string"),
        ({"question": "?", "answer": ".,"}, "answer: is '.,', of which nothing is left"),
        (
            {"question": "?", "answer": "x", "ground_truth": "x"},
            "answer: stands there as 'ground_truth', too",
        ),
        ({"question": "?", "answer": "x", "id": True}, "id: is a boolean"),
        ({"question": "?", "answer": "x", "id": ""}, "id: is ''; give 1 … 200 printable"),
        ({"question": "?", "answer": "x", "task_id": "a\nb"}, "task_id: is 'a\\nb'"),
        ({"question": "?", "answer": "x", "id": "i" * 201}, "id: is 'iii"),
        ({"question": "Who?", "answer": "x"}, "question: is that of FOLDER/q.jsonl:1; take one of them out"),
        ({"question": "?", "answer": "x", "id": "first"}, "id: is 'first', as in FOLDER/q.jsonl:2"),
        (
            {"question": "?", "answer": "x", "files": "t.csv"},
            "files: is a string; give paths from FOLDER, as a list",
        ),
        ({"question": "?", "answer": "x", "files": [1]}, "files: is a list; give paths"),
        ({"question": "?", "answer": "x", "file_name": ["t.csv"]}, "file_name: is a list; give paths"),
        ({"question": "?", "answer": "x", "files": ["no.csv"]}, "files: there is no file FOLDER/no.csv"),
        (
            {"question": "?", "answer": "x", "files": ["sub"]},
            "files: FOLDER/sub is a folder; name the files in it",
        ),
        ({"question": "?\ud800", "answer": "x"}, "question: character 1 is \\ud800"),
    ],
)
def test_what_is_wrong_with_a_record(folder, record, message):
    good = ({"question": "Who?", "answer": "x"}, {"id": "first", "question": "First?", "answer": "x"})
    with pytest.raises(DataError) as raised:
        read(folder, lines(*good, record))
    assert str(raised.value).startswith(f"{folder}/q.jsonl:3: " + message.replace("FOLDER", str(folder)))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (
            b'{"question": "?", "question": "!"}',
            "q.jsonl",
            "q.jsonl:1: line: unreadable JSON (the key 'question'",
        ),
        (
            b'{"question": "?", "answer": NaN}',
            "q.jsonl",
            "q.jsonl:1: line: unreadable JSON (NaN is not JSON)",
        ),
        (b"\n\n{", "q.jsonl", "q.jsonl:3: line: unreadable JSON"),
        (b'[{"question": "?"}]', "q.jsonl", "q.jsonl: file: is one JSON array"),
        ("{}".encode("utf-16"), "q.jsonl", "q.jsonl: file: is UTF-16"),
        (b"", "q.jsonl", "q.jsonl: file: is empty; it must hold at least one question"),
        (b" \n", "q.jsonl", "q.jsonl: file: is empty; it must hold at least one question"),
        (b"x", "q.csv", "q.csv: file: unknown kind; give *.jsonl, *.jsonl.gz or *.parquet"),
        (b"x", "q.arrayrecord", "q.arrayrecord: file: is arrayrecord, which holds no questions here"),
        (b"{}", "q.jsonl.gz", "q.jsonl.gz: file: is not gzip"),
    ],
)
def test_what_is_wrong_with_a_file(tmp_path, content, name, message):
    with pytest.raises(DataError) as raised:
        read(tmp_path, content, name)
    assert str(raised.value).startswith(f"{tmp_path}/{message}")


def test_a_path_that_names_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path, message in (
        ("no.jsonl", f"no.jsonl: no such file; check tasks.train (now in {tmp_path})"),
        (".", ".: file: is a folder; give files: *.jsonl, *.jsonl.gz or *.parquet"),
        (" , ", "tasks.train ' , ' names no file"),
    ):
        with pytest.raises(DataError) as raised:
            read_tasks(path, "tasks.train")
        assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    ("grader", "answer", "message"),
    [
        ("number", "many", "answer: is 'many', in which there is not one number"),
        ("number", "about 5", None),
        ("set", ";", "answer: is ';', in which there are no items"),
        ("gaia", "", "answer: is missing"),
        ("mine:grade", "", None),
    ],
)
def test_a_reference_must_be_one_that_the_grader_can_use(tmp_path, grader, answer, message):
    content = lines({"question": "?", "answer": answer})
    if message is None:
        assert read(tmp_path, content, grader=grader)[0].answer == answer
    else:
        with pytest.raises(DataError, match=f"q.jsonl:1: {message}"):
            read(tmp_path, content, grader=grader)


def test_a_held_out_question_is_not_trained_on(tmp_path):
    paths = [tmp_path / "train.jsonl", tmp_path / "heldout.jsonl"]
    paths[0].write_bytes(
        lines({"id": 1, "question": "A?", "answer": 1}, {"id": 2, "question": "B  c?", "answer": 1})
    )
    paths[1].write_bytes(
        lines({"id": 1, "question": "Z?", "answer": 1}, {"id": 3, "question": "B c?", "answer": 1})
    )
    train, heldout = (read_tasks(str(path), "tasks") for path in paths)
    refuse_shared(train, heldout[:1])
    with pytest.raises(DataError) as raised:
        refuse_shared(train, heldout)
    assert str(raised.value).startswith(f"{paths[1]}:2: question: also stands in {paths[0]}:2, ")
