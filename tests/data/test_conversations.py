"""Reading and writing conversations, and the one line that each kind of bad input ends with."""

import json
import os
import re
import subprocess
import sys

import pytest
from array_record.python import array_record_module

from mirothinker_jax.data.array_record import write_array_record
from mirothinker_jax.data.conversations import Conversations, open_conversations
from mirothinker_jax.data.messages import DataError

GOOD = {"messages": [{"role": "user", "content": "é\n"}, {"role": "assistant", "content": "中"}], "id": "a"}
CALLS = [{"type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}]
WITH_CALLS = {
    "messages": [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "", "reasoning_content": "t", "tool_calls": CALLS},
        {"role": "tool", "content": "r"},
        {"role": "assistant", "content": "a", "weight": 1},
    ]
}


def write_jsonl(path, *lines):
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return str(path)


def contents(source):
    return [source[i] for i in range(len(source))]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("none.jsonl", r"none\.jsonl: no such file; check data\.path"),
        ("no*.jsonl", r"no\*\.jsonl: no such file"),
        ("empty.jsonl", r"empty\.jsonl: file: is empty; it must hold at least one conversation"),
        ("blank.jsonl", r"blank\.jsonl: file: is empty"),
        ("notes.txt", r"notes\.txt: file: unknown kind; give \*\.jsonl, "),
        ("fake.arrayrecord", r"fake\.arrayrecord: file: not ArrayRecord"),
        (" , ", r"names no file; give"),
        ("tfds:name", r"tfds:name: path: not a dataset and a split; write tfds:NAME/SPLIT"),
        (
            "tfds:no_such_dataset/train",
            r"tfds:no_such_dataset/train: dataset: cannot be opened \(Dataset no_such",
        ),
    ],
)
def test_files_that_cannot_be_opened(tmp_path, monkeypatch, path, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "blank.jsonl").write_text("\n \n")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "fake.arrayrecord").write_text("x" * 100)
    with pytest.raises(DataError, match=message) as caught:
        open_conversations(path)
    assert "\n" not in str(caught.value)


def test_a_bad_line_is_named_when_the_file_is_opened(tmp_path):
    path = write_jsonl(tmp_path / "my.jsonl", GOOD, "", {"messages": []}, GOOD)
    with pytest.raises(DataError, match=r"my\.jsonl:3: messages: is empty"):
        open_conversations(path)


def test_jsonl_is_read_at_random_and_knows_its_lines(tmp_path):
    source = open_conversations(write_jsonl(tmp_path / "my.jsonl", GOOD, "  ", WITH_CALLS, "", GOOD))
    assert [source[i] for i in (2, 0, 1)] == [GOOD, GOOD, WITH_CALLS]
    assert [source.location(i) for i in range(3)] == [f"{tmp_path}/my.jsonl:{line}" for line in (1, 3, 5)]


def test_globs_and_lists_are_one_source(tmp_path):
    records = [{**GOOD, "id": str(i)} for i in range(4)]
    write_jsonl(tmp_path / "b.jsonl", records[1])
    write_jsonl(tmp_path / "a.jsonl", records[0])
    assert write_array_record(records[2:], tmp_path / "c.arrayrecord") == 2
    source = open_conversations(f"{tmp_path}/*.jsonl, {tmp_path}/c.arrayrecord")
    assert contents(source) == records
    assert source.location(3) == f"{tmp_path}/c.arrayrecord:2"
    with pytest.raises(IndexError):
        source[4]


def test_array_record_round_trip(tmp_path):
    path = tmp_path / "x.arrayrecord"
    assert write_array_record(iter([GOOD, WITH_CALLS]), path) == 2
    assert contents(open_conversations(str(path))) == [GOOD, WITH_CALLS]


def test_array_record_of_json_and_its_bad_records(tmp_path):
    path = tmp_path / "x.arrayrecord"
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for content in (json.dumps(GOOD).encode(), b"\x0a\x05hello", b'{"messages": []}'):
        writer.write(content)
    writer.close()
    source = open_conversations(str(path))
    assert source[0] == GOOD
    with pytest.raises(DataError, match=r"x\.arrayrecord:2: record: neither msgpack nor JSON"):
        source[1]
    with pytest.raises(DataError, match=r"x\.arrayrecord:3: messages: is empty"):
        source[2]


def test_a_bad_record_leaves_the_old_array_record(tmp_path):
    path = tmp_path / "x.arrayrecord"
    write_array_record([GOOD], path)
    with pytest.raises(DataError, match="record 2: messages: is empty"):
        write_array_record([WITH_CALLS, {"messages": []}], path)
    with pytest.raises(DataError, match=r"x\.arrayrecord: file: is empty"):
        write_array_record([], path)
    assert contents(open_conversations(str(path))) == [GOOD]
    assert list(tmp_path.iterdir()) == [path]


def test_records_in_memory(tmp_path):
    source = Conversations([GOOD, WITH_CALLS], name="expert")
    assert contents(source) == [GOOD, WITH_CALLS]
    assert source.location(1) == "expert:2"
    with pytest.raises(DataError, match=re.escape("expert:2: messages: is empty")):
        Conversations([GOOD, {"messages": []}], name="expert")


class NoTensorFlow:
    """An import hook: as if TensorFlow was not installed."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "tensorflow":
            raise ModuleNotFoundError(f"No module named {name!r}")


def test_tfds_round_trip_without_tensorflow(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "meta_path", [NoTensorFlow(), *sys.meta_path])
    from mirothinker_jax.data.trajectories_tfds import write_trajectories

    folder = write_trajectories({"train": [GOOD, WITH_CALLS], "test": [GOOD]}, tmp_path)
    source = open_conversations(f"tfds:{folder}/train")
    by_length = sorted(contents(source), key=lambda record: len(record["messages"]))  # tfds shuffles
    assert by_length == [GOOD, WITH_CALLS]
    assert source.location(0) == f"tfds:{folder}/train:1"
    assert contents(open_conversations(f"tfds:{folder}/test")) == [GOOD]
    parts = ("train", "test", "train[:1]", "train[1:]")
    assert len({open_conversations(f"tfds:{folder}/{part}").fingerprint for part in parts}) == 4
    with pytest.raises(DataError, match="Unknown split 'dev'"):
        open_conversations(f"tfds:{folder}/dev")
    with pytest.raises(ValueError, match="exists already; remove it"):
        write_trajectories({"train": [GOOD]}, tmp_path)
    with pytest.raises(DataError, match="record 2: messages: is empty"):
        write_trajectories({"train": [GOOD, {"messages": []}]}, tmp_path / "other")
    assert not list((tmp_path / "other").rglob("*.array_record*"))

    # By name: the folder is given from outside, and the builder's code is not needed to read.
    code = (
        "import sys\n"
        "from mirothinker_jax.data.conversations import open_conversations\n"
        "print(open_conversations('tfds:mirothinker_trajectories/test')[0]['id'])\n"
        "print('tensorflow' in sys.modules)"
    )
    environment = {**os.environ, "TFDS_DATA_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )
    assert result.stdout == "a\nFalse\n", result.stderr
