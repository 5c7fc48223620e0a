"""The files that people bring: what is read, and the one line that every other ends with."""

import gzip
import json
import os
import resource
import signal
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from mirothinker_jax.data.array_record import write_array_record
from mirothinker_jax.data.conversations import Conversations, open_conversations
from mirothinker_jax.data.messages import DataError


def record(text="a", **others):
    return {
        "messages": [{"role": "user", "content": "é\n"}, {"role": "assistant", "content": text}],
        **others,
    }


RECORDS = [record("a"), record("b", id="x"), record("c")]
LINES = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in RECORDS)
TOOL = {
    "type": "function",
    "function": {"name": "f", "parameters": {"properties": {"a": {"type": "string"}}}},
}
CALL = {"type": "function", "function": {"name": "f", "arguments": {"a": "x"}}}


def contents(source):
    return [source[i] for i in range(len(source))]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("my.jsonl", LINES.encode()),
        ("my.JSON", LINES.encode()),
        ("a,b.jsonl", LINES.encode()),
        ("bom.jsonl", b"\xef\xbb\xbf" + LINES.encode()),
        ("joined.jsonl", b"".join(b"\xef\xbb\xbf" + line for line in LINES.encode().splitlines(True))),
        ("crlf.jsonl", LINES.replace("\n", "\r\n").encode()),
        ("blank.jsonl", LINES.replace("\n", "\n \n").encode()),
        ("last.jsonl", LINES.rstrip("\n").encode()),
        ("my.jsonl.gz", gzip.compress(LINES.encode())),
        ("my.json.gz", b"".join(gzip.compress(line) for line in LINES.encode().splitlines(True))),
    ],
)
def test_json_lines_in_their_shapes(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    source = open_conversations(str(tmp_path / name))
    assert contents(source) == RECORDS
    assert [source[i] for i in (2, 0)] == [RECORDS[2], RECORDS[0]]
    lines = (1, 3, 5) if name == "blank.jsonl" else (1, 2, 3)
    assert [source.location(i) for i in range(3)] == [f"{tmp_path}/{name}:{n}" for n in lines]
    assert source.fingerprint == Conversations(RECORDS).fingerprint


def test_a_gzip_line_is_named(tmp_path):
    path = tmp_path / "my.jsonl.gz"
    path.write_bytes(gzip.compress((LINES + '\n{"messages": []}\n').encode()))
    with pytest.raises(DataError, match=r"my\.jsonl\.gz:5: messages: is empty"):
        open_conversations(str(path))
    path.write_bytes(gzip.compress((LINES + "{\n").encode()))
    with pytest.raises(DataError, match=r"my\.jsonl\.gz:4: line: unreadable JSON \(Expecting"):
        open_conversations(str(path))


def test_records_of_packed_files_wait_on_disk(tmp_path):
    """Neither file is held in memory, and both share one temporary file, which leaves no name behind."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl.gz").write_bytes(
            gzip.compress(json.dumps(record(name * 100_000)).encode())
        )
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(scratch))
        source = open_conversations(f"{tmp_path}/*.jsonl.gz")
        assert len(list(Path("/proc/self/fd").iterdir())) == before + 1
    assert not list(scratch.iterdir())
    assert [r["messages"][1]["content"][:2] for r in contents(source)] == ["aa", "bb"]


def test_a_full_disk_is_one_line(tmp_path):
    path = tmp_path / "my.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(record("x" * 100_000)).encode()))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(
            DataError, match=r"cannot hold the uncompressed records .*; set TMPDIR to a folder"
        ):
            open_conversations(str(path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


# Parquet


def test_parquet_gives_what_json_lines_give(tmp_path):
    """Nested structs, to which Arrow adds nulls where a record lacks a key; over several row groups."""
    calling = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    other = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"function": {"name": "g", "arguments": {"b": 1}}}],
    }
    records = [
        record("a", id="x", tools=None),  # pyarrow takes the columns from the first
        {
            "messages": [{"role": "user", "content": "q"}, calling, {"role": "tool", "content": "r"}],
            "tools": [TOOL],
        },
        {"messages": [{"role": "user", "content": "q"}, {**other, "weight": 1, "reasoning_content": "t"}]},
    ] * 200
    path = tmp_path / "my.parquet"
    parquet.write_table(pa.Table.from_pylist(records), path, row_group_size=130, compression="zstd")
    source = open_conversations(str(path))
    expected = Conversations(records)
    assert contents(source) == contents(expected)
    assert source.location(599) == f"{path}:600"
    assert source.fingerprint == expected.fingerprint


def test_parquet_columns_of_other_types(tmp_path):
    """JSON as text, maps, categories, large strings, and the index that pandas adds."""
    text = pa.array([json.dumps(record()["messages"])] * 2, pa.large_string())
    columns = {
        "messages": text,
        "tools": pa.array([json.dumps([TOOL]), None]),
        "metadata": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64())),
        "split": pa.array(["train", "train"]).dictionary_encode(),
        "__index_level_0__": pa.array([3, 4]),
        "when": pa.array([0, 1], pa.timestamp("s")),
    }
    path = tmp_path / "my.parquet"
    parquet.write_table(pa.table(columns), path)
    with pytest.raises(DataError, match=r"my\.parquet:1: when: unknown key.*data\.ignore=when"):
        open_conversations(str(path))
    assert contents(open_conversations(str(path), ("when",))) == [
        record(tools=[TOOL], metadata={"k": 1}, split="train"),
        record(split="train"),
    ]


@pytest.mark.parametrize("ignore", [(), ("created",)])
def test_a_value_that_json_cannot_say_is_named(tmp_path, ignore):
    table = pa.table({"messages": pa.array([json.dumps(record()["messages"])]), "id": pa.array([b"\0"])})
    parquet.write_table(table, tmp_path / "my.parquet")
    with pytest.raises(
        DataError, match=r"my\.parquet:1: id: is of Python's type bytes, which JSON cannot say"
    ):
        open_conversations(str(tmp_path / "my.parquet"), ignore)


def test_damaged_parquet_is_one_line(tmp_path):
    path = tmp_path / "my.parquet"
    twice = pa.Table.from_arrays(
        [pa.array(["[]"]), pa.array(["a"]), pa.array(["b"])], ["messages", "id", "id"]
    )
    parquet.write_table(twice, path)
    with pytest.raises(
        DataError, match=r"my\.parquet: file: cannot be read after row 0 \(the column 'id' stands"
    ):
        open_conversations(str(path))
    parquet.write_table(pa.Table.from_pylist(RECORDS * 500), path)
    whole = path.read_bytes()
    broken = [whole[:-9], whole[: len(whole) // 2], b"PAR1", whole[:100] + bytes(400) + whole[500:]]
    for content in broken:
        path.write_bytes(content)
        with pytest.raises(
            DataError, match=r"my\.parquet: file: cannot be read after row \d+ \(.+\); write it"
        ) as e:
            open_conversations(str(path))
        assert "\n" not in str(e.value)


def test_parquet_without_rows_and_without_pyarrow(tmp_path, monkeypatch):
    path = tmp_path / "my.parquet"
    parquet.write_table(pa.Table.from_pylist(RECORDS)[:0], path)
    with pytest.raises(DataError, match=r"my\.parquet: file: is empty"):
        open_conversations(str(path))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"needs pyarrow; pip install 'mirothinker-jax\[parquet\]'"):
        open_conversations(str(path))


# What is not a file of conversations


def make_odd_files(folder: Path):
    for name in ("folder.jsonl", "tables", "dataset", "nothing", "unknown"):
        (folder / name).mkdir()
    (folder / "tables" / "part-1.parquet").write_bytes(b"")
    (folder / "dataset" / "x-train.array_record-00000-of-00001").write_bytes(b"")
    (folder / "unknown" / "x.csv").write_bytes(b"")
    (folder / "dangling.jsonl").symlink_to("gone.jsonl")
    (folder / "loop.jsonl").symlink_to("loop.jsonl")
    (folder / "device.jsonl").symlink_to("/dev/null")
    (folder / "unreadable.jsonl").symlink_to("/proc/self/mem")  # also where tests run as root
    os.mkfifo(folder / "pipe.jsonl")
    (folder / "wide.jsonl").write_bytes(LINES.encode("utf-16"))
    (folder / "wide_be.jsonl").write_bytes(LINES.encode("utf-16-be"))
    (folder / "wider.jsonl").write_bytes(LINES.encode("utf-32"))
    (folder / "wider_le.jsonl").write_bytes(LINES.encode("utf-32-le"))
    (folder / "zeros.jsonl").write_bytes(bytes(64))
    (folder / "wide.jsonl.gz").write_bytes(gzip.compress(LINES.encode("utf-16")))
    (folder / "latin.jsonl").write_bytes(LINES.encode("latin-1"))
    (folder / "array.json").write_text(json.dumps(RECORDS))
    (folder / "lines_of_array.json").write_text(json.dumps(RECORDS, indent=1))
    (folder / "object.json").write_text(json.dumps(RECORDS[0], indent=1))
    (folder / "cut.jsonl").write_text(LINES[:-20])
    (folder / "cut.jsonl.gz").write_bytes(gzip.compress(LINES.encode())[:-12])
    (folder / "flipped.jsonl.gz").write_bytes(gzip.compress(LINES.encode())[:-8] + bytes(8))
    (folder / "plain.jsonl.gz").write_text(LINES)
    (folder / "packed.jsonl").write_bytes(gzip.compress(LINES.encode()))
    (folder / "table.jsonl").write_bytes(b"PAR1xxxx")
    (folder / "text.parquet").write_text(LINES)
    (folder / "nan.jsonl").write_text('{"messages": [], "metadata": NaN}\n')
    (folder / "twice.jsonl").write_text('{"messages": [], "messages": []}\n')
    (folder / "empty.jsonl.gz").write_bytes(gzip.compress(b""))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("folder.jsonl", "folder.jsonl: file: is a folder; give files: *.jsonl, *.jsonl.gz"),
        ("tables", "tables: file: is a folder; give its files: tables/*.parquet"),
        ("dataset", "dataset: file: is a folder; if it is a tfds dataset, write tfds:dataset/SPLIT"),
        ("unknown", "unknown: file: is a folder; give files: *.jsonl"),
        ("folder*", "folder.jsonl: file: is a folder"),
        ("dangling.jsonl", "dangling.jsonl: file: points to gone.jsonl, which does not exist; mend the link"),
        ("loop.jsonl", "loop.jsonl: file: cannot be read (Too many levels of symbolic links)"),
        ("device.jsonl", "device.jsonl: file: is a pipe or a device; write the data to a file first"),
        ("pipe.jsonl", "pipe.jsonl: file: is a pipe or a device"),
        ("unreadable.jsonl", "unreadable.jsonl: file: cannot be read (Input/output error)"),
        ("array.json/x.jsonl", "array.json/x.jsonl: no such file; check data.path"),
        ("x" * 300, f"{'x' * 300}: no such file"),
        ("x\0.jsonl", "x\0.jsonl: no such file"),
        ("gs://bucket/my.jsonl", "gs://bucket/my.jsonl: file: not on this machine; copy it here"),
        ("wide.jsonl", "wide.jsonl: file: is UTF-16; write it as UTF-8: iconv -f UTF-16 -t UTF-8"),
        ("wide_be.jsonl", "wide_be.jsonl: file: is UTF-16"),
        ("wider.jsonl", "wider.jsonl: file: is UTF-32"),
        ("wider_le.jsonl", "wider_le.jsonl: file: is UTF-32"),
        ("zeros.jsonl", "zeros.jsonl:1: line: unreadable JSON (Expecting value"),
        ("wide.jsonl.gz", "wide.jsonl.gz: file: is UTF-16"),
        ("latin.jsonl", "latin.jsonl:1: line: unreadable JSON ('utf-8' codec can't decode byte 0xe9"),
        ("array.json", "array.json: file: is one JSON array; write one object on each line: jq -c '.[]'"),
        ("lines_of_array.json", "lines_of_array.json: file: is one JSON array"),
        ("object.json", "object.json:1: line: unreadable JSON (Expecting property name"),
        ("cut.jsonl", "cut.jsonl:3: line: unreadable JSON (Expecting"),
        ("cut.jsonl.gz", "cut.jsonl.gz: file: damaged gzip (Compressed file ended before"),
        ("flipped.jsonl.gz", "flipped.jsonl.gz: file: damaged gzip (CRC check failed"),
        ("plain.jsonl.gz", "plain.jsonl.gz: file: is not gzip, as its name says; name it *.jsonl"),
        ("packed.jsonl", "packed.jsonl: file: is gzip, not what its name says; name it *.jsonl.gz"),
        ("table.jsonl", "table.jsonl: file: is parquet, not what its name says; name it *.parquet"),
        ("text.parquet", "text.parquet: file: cannot be read after row 0 (Parquet magic bytes not found"),
        ("nan.jsonl", "nan.jsonl:1: line: unreadable JSON (NaN is not JSON); put one object on each line"),
        ("twice.jsonl", "twice.jsonl:1: line: unreadable JSON (the key 'messages' stands twice"),
        ("empty.jsonl.gz", "empty.jsonl.gz: file: is empty"),
    ],
)
def test_every_other_file_is_one_line(tmp_path, monkeypatch, path, message):
    monkeypatch.chdir(tmp_path)
    make_odd_files(tmp_path)
    with pytest.raises(DataError) as caught:
        open_conversations(path)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_damaged_array_record_is_one_line(tmp_path):
    path = tmp_path / "x.arrayrecord"
    write_array_record(RECORDS, path)
    content = bytearray(path.read_bytes())
    source = open_conversations(str(path))
    at = content.index(b"assistant")
    content[at] ^= 4
    path.write_bytes(content)
    source = open_conversations(str(path))
    with pytest.raises(
        DataError, match=r"x\.arrayrecord:1: record: damaged \(Corrupted.*; fetch or write the file"
    ):
        contents(source)


# What the data are


def test_a_fingerprint_changes_with_any_record_and_with_nothing_else(tmp_path):
    def jsonl(name, records, **options):
        path = tmp_path / name
        path.write_text("".join(json.dumps(r, **options) + "\n" for r in records))
        return str(path)

    base = open_conversations(jsonl("a.jsonl", RECORDS)).fingerprint
    assert open_conversations(jsonl("b.jsonl", RECORDS, separators=(",", ":"))).fingerprint == base
    noted = jsonl("c.jsonl", [{**r, "note": "n", "id": "other"} for r in RECORDS])
    assert open_conversations(noted, ["note"]).fingerprint == base
    changed = [
        [RECORDS[0], RECORDS[2], RECORDS[1]],
        [*RECORDS[:2], record("C")],
        [*RECORDS[:2], record("c", tools=[TOOL])],
        [*RECORDS[:2], record("c", system="s")],
        RECORDS[:2],
    ]
    prints = {open_conversations(jsonl("d.jsonl", records)).fingerprint for records in changed}
    assert len(prints | {base}) == 6
    pair = f"{tmp_path}/a.jsonl,{noted}"
    assert open_conversations(pair, ["note"]).fingerprint not in prints | {base}


def test_a_fingerprint_of_files_that_programs_write(tmp_path):
    paths = [str(tmp_path / f"{n}.arrayrecord") for n in range(3)]
    for path, text in zip(paths, "aab", strict=True):
        write_array_record([*RECORDS, record(text)], path)
    first, same, other = (open_conversations(path).fingerprint for path in paths)
    assert first == same != other
    assert open_conversations(paths[0], ["weight"]).fingerprint != first
