"""Made-up files in the form of each benchmark, and what is wrong with some of them."""

import dataclasses
import json

import pytest
from benchmark_files import CANARY, encode, write

from mirothinker_jax.config import ConfigError
from mirothinker_jax.config_tasks import READINGS as READING_NAMES
from mirothinker_jax.data.strict_json import DataError
from mirothinker_jax.evals.benchmarks import exportable, open_reference, read_benchmark
from mirothinker_jax.evals.catalogue import BENCHMARKS
from mirothinker_jax.evals.ciphers import decode
from mirothinker_jax.tasks.graders import RULES
from mirothinker_jax.tasks.judge_readings import READINGS
from mirothinker_jax.tasks.types import Task

QUESTION, ANSWER = "Who wrote the first program,\nand when?", "Ada Lovelace, 1843"
ZH_QUESTION, ZH_ANSWER = "谁写了第一个程序？", "阿达·洛夫莱斯"


@pytest.mark.parametrize("cipher", ["sha256", "canary"])
@pytest.mark.parametrize("text", ["", "Ada", ZH_QUESTION * 9, "x" * 33])
def test_what_is_encoded_is_decoded(cipher, text):
    code = encode(text, cipher=cipher)
    assert decode(code, CANARY, cipher) == text
    assert decode(f" {code[:4]}\n{code[4:]}", CANARY, cipher) == text


def test_ciphers_by_hand():
    # "AA" is 41 41. SHA-256 of "abc" begins ba 78; "kl" is 6b 6c.
    assert decode("+zk=", "abc", "sha256") == "AA"
    assert decode("Ki0=", "kl", "canary") == "AA"


# What each benchmark's rows are, in a format it comes in, and the task that the first one makes.
FILES = {
    ("gaia", "metadata.jsonl"): (
        {"task_id": "g1", "Question": QUESTION, "Level": "2", "Final answer": ANSWER, "file_name": ""},
        Task("g1", QUESTION, ANSWER, (), {"level": "2"}),
    ),
    ("gaia-text-103", "gaia.parquet"): (
        {"task_id": "g1", "Question": QUESTION, "answer": ANSWER, "Level": 1},
        Task("g1", QUESTION, ANSWER, (), {"level": 1}),
    ),
    ("hle-text", "hle.parquet"): (
        {"id": "h1", "question": QUESTION, "image": "", "answer": "8", "answer_type": "exactMatch"},
        Task("h1", QUESTION, "8", (), {"answer_type": "exactMatch"}),
    ),
    ("frames", "test.tsv"): (
        {"": "0", "Prompt": QUESTION, "Answer": ANSWER, "reasoning_types": "Temporal | Numerical"},
        Task("", QUESTION, ANSWER, (), {"reasoning": "Temporal | Numerical"}),
    ),
    ("webwalkerqa", "main.json"): (
        {"question": QUESTION, "answer": ANSWER, "root_url": "https://a.test/", "info": {"hop": "multi"}},
        Task("", QUESTION, ANSWER, (), {"root": "https://a.test/", "info": {"hop": "multi"}}),
    ),
    ("seal-0", "standard.jsonl.gz"): (
        {"task_id": "s1", "task_question": QUESTION, "ground_truth": ANSWER, "metadata": {"topic": "x"}},
        Task("s1", QUESTION, ANSWER, (), {"topic": "x"}),
    ),
    ("deepsearchqa", "dsqa.csv"): (
        {"problem": QUESTION, "problem_category": "History", "answer": ANSWER, "answer_type": "Set Answer"},
        Task("", QUESTION, ANSWER, (), {"topic": "History", "answer_type": "Set Answer"}),
    ),
    ("aime2025", "aime.parquet"): (
        {"id": 3, "problem": QUESTION, "answer": 204},
        Task("3", QUESTION, "204"),
    ),
    ("simpleqa", "simpleqa.csv"): (
        {"metadata": "{}", "problem": QUESTION, "answer": ANSWER},
        Task("", QUESTION, ANSWER),
    ),
    ("futurex", "futurex.parquet"): (
        {"id": "f1", "prompt": QUESTION, "end_time": "2026-01-01", "level": 2},
        Task("f1", QUESTION, "", (), {"end_time": "2026-01-01", "level": 2}),
    ),
    ("questions", "own.jsonl"): (
        {"id": "q", "question": QUESTION, "answer": ANSWER, "hops": 2},
        Task("q", QUESTION, ANSWER, (), {"hops": 2}),
    ),
}


@pytest.mark.parametrize(("name", "file"), FILES)
def test_a_file_as_it_was_published(tmp_path, name, file):
    row, expected = FILES[name, file]
    other = {
        key: f"{value} other" if key in ("Question", "question", "Prompt", "problem", "prompt") else value
        for key, value in row.items()
    }
    other |= {key: "other" for key in ("id", "task_id") if key in row and isinstance(row[key], str)}
    other |= {"task_question": "Other?"} if "task_question" in row else {}
    other |= {"id": 4} if row.get("id") == 3 else {}
    found = read_benchmark(name, write(tmp_path / file, [row, other]))
    first, second = found.tasks
    assert first.id.startswith(expected.id or "q-")
    assert dataclasses.replace(first, id=expected.id) == expected
    assert first.id and first.id != second.id and "\n" not in first.id
    sizes = BENCHMARKS[name].sizes
    assert len(found.remarks) == bool(sizes) and all("2 questions, and" in r for r in found.remarks)
    assert len(found.digest) == 64 and exportable([first.metadata], False) == []


ENCODED = {
    ("browsecomp", "browse_comp_test_set.csv"): {
        "problem": encode(QUESTION), "answer": encode(ANSWER), "problem_topic": "Music", "canary": CANARY,
    },
    ("browsecomp-zh", "browsecomp-zh-encrypted.xlsx"): {
        "Topic": encode("历史"), "Question": encode(ZH_QUESTION), "Answer": encode(ZH_ANSWER), "canary": CANARY,
    },
    ("xbench-deepsearch", "DeepSearch.csv"): {
        "id": "1", "prompt": encode(ZH_QUESTION, cipher="canary"), "answer": encode(ZH_ANSWER, cipher="canary"),
        "reference_steps": encode("略", cipher="canary"), "canary": CANARY,
    },
}  # fmt: skip


@pytest.mark.parametrize(("name", "file"), ENCODED)
def test_an_encoded_file(tmp_path, name, file):
    row = ENCODED[name, file]
    path = write(tmp_path / file, [row], "utf-8-sig")
    (task,) = read_benchmark(name, path).tasks
    english = name == "browsecomp"
    question, answer = (QUESTION, ANSWER) if english else (ZH_QUESTION, ZH_ANSWER)
    assert task.question == question and open_reference(task).answer == answer
    topic = {"browsecomp": {"topic": "Music"}, "browsecomp-zh": {"topic": "历史"}}.get(name, {})
    cipher = "canary" if name == "xbench-deepsearch" else "sha256"
    assert task.metadata == {**topic, "canary": CANARY, "cipher": cipher}
    # What a journal gets of the reference is what the file has.
    assert task.answer in (row.get("answer"), row.get("Answer")) and answer not in json.dumps(
        dataclasses.asdict(task), ensure_ascii=False
    )
    assert exportable([task.metadata, task.metadata, {}], True) == [CANARY]
    with pytest.raises(ConfigError, match=rf"give --allow-encoded, keep .*{CANARY}"):
        exportable([{}, task.metadata], False)
    assert [path.name for path in tmp_path.iterdir()] == [file]


def test_attachments_lie_beside_the_file_and_pictures_are_left_out(tmp_path):
    (tmp_path / "table.xlsx").write_bytes(b"x")
    row = {"task_id": "g", "Question": "Q?", "Level": 1, "Final answer": "a", "file_name": "table.xlsx"}
    (task,) = read_benchmark("gaia", write(tmp_path / "m.jsonl", [row])).tasks
    assert task.files == (str(tmp_path / "table.xlsx"),)
    rows = [
        {"id": str(i), "question": f"Q{i}?", "answer": "a", "image": image}
        for i, image in enumerate(("", "data:image/png;base64,AAAA"))
    ]
    path = write(tmp_path / "hle.parquet", rows)
    assert [task.id for task in read_benchmark("hle-text", path).tasks] == ["0"]
    both = read_benchmark("hle", path)
    assert [dict(task.metadata) for task in both.tasks] == [{}, {"picture": True}]
    assert both.remarks[1] == "1 questions have a picture, which is not shown"


BROWSECOMP = ENCODED["browsecomp", "browse_comp_test_set.csv"]
XBENCH = ENCODED["xbench-deepsearch", "DeepSearch.csv"]


def test_the_same_question_twice_and_one_without_a_reference(tmp_path):
    rows = [{"problem": p, "answer": a} for p, a in (("Q?", "x"), ("R?", ""), ("Q?", "y"))]
    found = read_benchmark("deepsearchqa", write(tmp_path / "d.csv", rows))
    first, second = (task.id for task in found.tasks)
    assert second == f"{first}-2" and [task.answer for task in found.tasks] == ["x", "y"]
    assert found.remarks[1] == "1 questions have no reference, and are left out"
    sealed = write(tmp_path / "b.csv", [BROWSECOMP, {**BROWSECOMP, "answer": encode(" ")}])
    assert len(read_benchmark("browsecomp", sealed).tasks) == 1


@pytest.mark.parametrize(
    ("name", "file", "rows", "message"),
    [
        ("browsecomp", "b.csv", [{**BROWSECOMP, "canary": "another"}], ":2: problem: does not decode to UTF-8 with "),
        ("browsecomp", "b.csv", [{**BROWSECOMP, "canary": " "}], ":2: canary: is empty; fetch the file anew"),
        ("browsecomp", "b.csv", [{**BROWSECOMP, "answer": "Ada?"}], ":2: answer: is not base64, as an encoded text "),
        ("browsecomp", "b.csv", [{**BROWSECOMP, "problem": encode(" ")}], ":2: problem: is empty"),
        ("browsecomp", "b.csv", [{"problem": "Q?", "answer": "a"}], ": header: has no column 'canary'; give the enc"),
        ("browsecomp", "b.jsonl", [{"task_question": "Q?", "ground_truth": "a"}], ": header: has no column 'problem"),
        ("browsecomp-zh", "b.xlsx", [{"Question": 5, "Answer": 3, "canary": "c"}], ":2: Question: is a number, not "),
        ("xbench-deepsearch", "x.csv", [XBENCH, XBENCH], ":3: id: is that of"),
        ("gaia", "g.csv", [{"task_id": "1", "Question": "Q?"}], ": header: has no column 'Final answer' or 'answer'"),
        ("gaia", "g.json", [{"task_id": "1", "Question": "Q?", "answer": ""}], ": file: holds no question that can"),
        ("gaia", "g.json", [{"task_id": "1", "Question": "", "answer": "a"}], ":1: Question: is empty"),
        ("gaia", "g.json", [{"task_id": "1", "Question": "Q?", "answer": "a", "file_name": "no"}], ":1: file_name: "),
        ("gaia", "g.json", [{"task_id": 1, "Question": q, "answer": "a"} for q in "ab"], ":2: task_id: is that of"),
        ("gaia", "g.json", [3], ":1: record: is a number; each is an object"),
        ("seal-0", "s.json", [{"question": "Q?", "answers": ["a", "b"]}], ":1: answers: is a list of 2; write the r"),
        ("aime2025", "a.csv", [{"problem": "Q?", "answer": "3 or 4"}], ":2: answer: is '3 or 4', in which there is "),
        ("hle-text", "h.json", [{"id": "1", "question": "Q?", "answer": "a", "image": "x"}], ": file: holds no ques"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used(tmp_path, name, file, rows, message):
    path = write(tmp_path / file, rows) if isinstance(rows[0], dict) else str(tmp_path / file)
    if not isinstance(rows[0], dict):
        (tmp_path / file).write_text(json.dumps(rows))
    with pytest.raises(DataError) as raised:
        read_benchmark(name, path)
    assert str(raised.value).startswith(path + message) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("a.csv", b"problem,answer\n\xffx,1\n", ": file: is not UTF-8 (byte 15)"),
        ("a.csv", b'problem,answer\n"x,1\n', ": file: is no CSV (unexpected end of data)"),
        ("a.csv", b"problem,answer\nx,1,2\n", ":2: row: has 3 cells, and the header 2"),
        ("a.csv", b'problem,answer\n\n"a\nb",1\nx\n', ":5: row: has 1 cells, and the header 2"),
        ("a.csv", b"problem,answer,problem\n", ":1: header: has two columns 'problem'"),
        ("a.csv", b"problem,answer\n", ": file: holds no question"),
        (
            "a.csv",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            ": file: is a pointer of Git LFS",
        ),
        ("a.csv", b"", ": file: is empty"),
        ("a.csv", None, ": file: cannot be read (No such file or directory)"),
        ("a.txt", b"x", ": file: unknown kind; give *.jsonl.gz, *.jsonl, *.json, *.csv,"),
        ("a.xlsx", b"PK\x03\x04", ": file: is no Excel workbook ("),
        ("a.parquet", b"PAR1", ": file: cannot be read after row 0 ("),
        ("a.json", b'[{"problem": "x"', ": file: unreadable JSON ("),
        ("a.jsonl", b'{"problem": \n', ":1: line: unreadable JSON ("),
        ("a.jsonl.gz", b"\x1f\x8b\x08", ": file: damaged gzip ("),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path, file, content, message):
    path = tmp_path / file
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as raised:
        read_benchmark("aime2025", str(path))
    assert str(raised.value).startswith(f"{path}{message}") and "\n" not in str(raised.value)


def test_what_the_catalogue_says():
    for name, benchmark in BENCHMARKS.items():
        assert not benchmark.rule or benchmark.rule in RULES, name
        assert not benchmark.reading or benchmark.reading in READINGS, name
        assert benchmark.scored == bool(benchmark.answer) and not (benchmark.rule and benchmark.reading)
        assert set(benchmark.encoded) <= set(benchmark.metadata.values())
    assert tuple(READINGS) == READING_NAMES
    with pytest.raises(ConfigError, match="the benchmark is 'gaja'; choose one of gaia, "):
        read_benchmark("gaja", "x.csv")
