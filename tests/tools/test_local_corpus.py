"""A corpus as the whole web: what is in it, found and read by the tools, and how its index comes to be."""

import asyncio
import dataclasses
import gzip
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mirothinker_jax.config import ConfigError, ToolsConfig
from mirothinker_jax.tools import corpus_index
from mirothinker_jax.tools.build import build_tools, check_tools
from mirothinker_jax.tools.corpus import passage
from mirothinker_jax.tools.corpus_index import open_corpus
from mirothinker_jax.tools.spec import Failure, ToolError

RECORDS = [
    {
        "url": "https://Tower.test/high/",
        "title": "Tower",
        "text": "It is old.\nThe tower has a height of 330 m.",
    },
    {"docid": "doc 7", "text": "---\ntitle: A meeting\ndate: 1955\n---\nDelegates met in Bandung."},
    {"_id": 9, "contents": "都庁\n東京都庁は新宿区にある。", "url": None, "title": None},
    {"url": "https://w.test/東京?a=1#top", "title": "Tōkyō", "text": "part one"},
    {"url": "https://w.test/東京?a=1", "title": "Tōkyō", "text": "part two"},
    {"url": "https://huggingface.co/datasets/a/b", "title": "Bandung answers", "text": "Bandung: 42"},
    {"url": "https://e.test/", "title": "", "text": "half \ud800 a pair"},
]
SETTINGS = ToolsConfig(names=("google_search", "scrape_and_extract_info"))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "mirothinker-jax" / "corpora"


def write(path, records=RECORDS):
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8-sig")
    return str(path)


@pytest.fixture(scope="module")
def tools(tmp_path_factory):
    """A function of a tool's name and arguments: what the model sees, or the ToolError."""
    folder = tmp_path_factory.mktemp("corpus")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        return using(write(folder / "docs.jsonl"))


def using(corpus):
    made = {
        tool.spec.name: tool for tool in build_tools(dataclasses.replace(SETTINGS, corpus=corpus), None, "")
    }

    def use(name, **arguments) -> Any:
        try:
            return asyncio.run(made[name].run(arguments, "e:0.0"))
        except ToolError as error:
            return error

    return use


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (
            "How high is the TOWERS?",
            "1. Tower\nhttps://Tower.test/high/\nThe tower has a height of 330 m.",
        ),
        (
            "bandung",
            "1. A meeting\nhttp://corpus.test/doc%207\nDelegates met in Bandung.",
        ),  # and not the benchmark's data
        ("東京", "1. 都庁\nhttp://corpus.test/9\n東京都庁は新宿区にある。"),
        ("庁", "1. 都庁\nhttp://corpus.test/9\n都庁 東京都庁は新宿区にある。"),
        (
            "tokyo two",
            "1. Tōkyō\nhttps://w.test/東京?a=1\npart two\n2. Tōkyō\nhttps://w.test/東京?a=1#top\npart one",
        ),
        (
            '"delegates" AND (met OR -x) site:a.test ^~*',
            "1. A meeting\nhttp://corpus.test/doc%207\nDelegates met in Bandung.",
        ),
    ],
)
def test_search(tools, query, expected):
    assert tools("google_search", q=query) == expected


@pytest.mark.parametrize("query", ["zzz", "?!", "\x00", "\ud800", "x" * 100_000])
def test_nothing_is_found(tools, query):
    error = tools("google_search", q=query)
    assert error.failure is Failure.NO_RESULTS and "no results" in str(error)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://tower.test/high/", "The tower has a height of 330 m."),
        ("HTTP://WWW.tower.test:80/high#top", "The tower has a height of 330 m."),
        ("http://corpus.test/doc%207", "Delegates met in Bandung."),
        ("http://corpus.test/doc 7", "Delegates met in Bandung."),
        ("https://w.test/%E6%9D%B1%E4%BA%AC?a=1", "part one\npart two"),
        ("https://w.test/東京?a=1", "part one\npart two"),
    ],
)
def test_pages_of_the_corpus_are_read(tools, url, expected):
    text = tools("scrape_and_extract_info", url=url, info_to_extract="height, delegates, part")
    assert text.partition("\n")[2] == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://tower.test/", "not in this corpus: https://tower.test/"),
        ("https://w.test/東京", "not in this corpus"),
        ("http://127.0.0.1/", "not on the public web"),
        ("doc 7", "not an http or https address"),
        ("https://huggingface.co/datasets/a/b", "off limits (benchmark data)"),
    ],
)
def test_other_addresses_are_what_the_model_learns(tools, url, expected):
    error = tools("scrape_and_extract_info", url=url, info_to_extract="x")
    assert error.failure is Failure.TOOL_ERROR and expected in str(error)


def test_a_folder(tmp_path):
    folder = tmp_path / "docs"
    (folder / "a b").mkdir(parents=True)
    (folder / ".git").mkdir()
    (folder / ".git" / "c.txt").write_text("hidden words")
    (folder / "plain.txt").write_bytes("Café\nnaïve words".encode("cp1252"))
    (folder / "a b" / "é.md").write_text("# A *note*\n\nmore words")
    (folder / "page.HTML").write_text(
        '<title>P</title><nav>n</nav><p>words, <a href="a b/é.md">linked</a></p>'
    )
    (folder / "empty.txt").write_text("")
    (folder / "image.png").write_bytes(b"words")
    with gzip.open(folder / "z.jsonl.gz", "wt") as file:
        file.write('{"url": "http://z.test/", "text": "zipped words"}\n\n')
    use = using(str(folder))
    listed = use("google_search", q="words").splitlines()
    assert {line for line in listed if line.startswith("http")} == {
        *("http://corpus.test/plain.txt", "http://corpus.test/a%20b/%C3%A9.md"),
        *("http://corpus.test/page.HTML", "http://z.test/"),
    }
    assert {line[3:] for line in listed if line[1:3] == ". "} == {"Café", "A *note*", "P", "zipped words"}
    page = use("scrape_and_extract_info", url="http://corpus.test/page.HTML", info_to_extract="words")
    link = "http://corpus.test/a b/é.md"
    assert f"words, [linked]({link})" in page
    assert "more words" in use("scrape_and_extract_info", url=link, info_to_extract="more")


LINE = '{"url": "http://a.test/", "text": "a"}'


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([LINE, "", '{"url": '], ":3: line: unreadable JSON"),
        ([LINE, b"\xff"], ":2: line: unreadable JSON"),
        (["[" * 100_000], ":1: line: unreadable JSON (nested too deeply)"),
        (["[1]"], ":1: line: is no JSON object"),
        (['{"text": "a"}'], ":1: url: is missing, and so is docid"),
        (['{"url": " ", "docid": null, "text": "a"}'], ":1: url: is missing, and so is docid"),
        (['{"url": "http://a.test/"}'], ":1: text: is missing, and so is contents"),
        (['{"docid": 1, "contents": null}'], ":1: contents: is null; write the document's text"),
        (['{"docid": 1, "text": ["a"]}'], ':1: text: is ["a"]; write the document\'s text'),
        (["", "  "], "holds no document"),
    ],
)
def test_records_that_are_none(tmp_path, cache, lines, expected):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines))
    with pytest.raises(ConfigError) as raised:
        check_tools(ToolsConfig(corpus=str(path)), "")
    said = str(raised.value)
    assert said.startswith(f"tools.corpus: {path}") and expected in said and "\n" not in said
    assert [item.name for item in cache.iterdir() if not item.name.endswith(".lock")] == []


def test_corpora_that_are_none(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.parquet").write_text("x")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b"x" * 1000)[:-9])
    for name, expected in (
        ("no-such", "is not there"),
        ("empty", "holds no file that ends in"),
        ("a.parquet", "is not a .jsonl or .jsonl.gz file"),
        ("cut.jsonl.gz", "damaged gzip"),
    ):
        with pytest.raises(ConfigError, match=expected):
            open_corpus(str(tmp_path / name))


def test_equally_good_documents_come_in_the_order_of_the_corpus(tmp_path):
    records = [{"url": f"http://a.test/{i}", "text": "the same words"} for i in range(300)]
    records[150]["text"] = "words words"
    index = open_corpus(write(tmp_path / "a.jsonl", records))
    expected = [f"http://a.test/{i}" for i in (150, *range(150), *range(151, 300))]
    assert [d.url for page in range(3) for d in index.find("words", 7, 7 * page)] == expected[:21]
    assert [d.url for d in index.find("words", 7, 147)] == expected[147:154]
    assert [d.url for d in index.find("words", 7, 297)] == expected[297:]
    assert index.find("words", 7, 10**12) == []


def test_the_index_is_made_once_for_a_content(tmp_path, cache, monkeypatch):
    def built():
        return sorted(path.name for path in cache.iterdir() if path.name[0] != ".")

    path = write(tmp_path / "a.jsonl")
    open_corpus(path)
    (first,) = built()
    with monkeypatch.context() as patch:
        patch.setattr(corpus_index, "_build", None)  # not called
        Path(path).rename(tmp_path / "b.jsonl")
        assert len(open_corpus(str(tmp_path / "b.jsonl"))) == len(RECORDS)
    write(tmp_path / "b.jsonl", RECORDS[:1])
    assert len(open_corpus(str(tmp_path / "b.jsonl"))) == 1
    assert len(built()) == 2 and first in built()
    # What a killed build left goes, and a damaged index is made anew.
    write(tmp_path / "b.jsonl")
    damaged = next((cache / first).glob("*.store"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    left = cache / f".{first}.{corpus_index.socket.gethostname()}.1"
    left.mkdir()
    assert len(open_corpus(str(tmp_path / "b.jsonl"))) == len(RECORDS)
    assert len(built()) == 2 and not left.exists()


def test_those_who_come_at_the_same_time_take_turns(tmp_path, monkeypatch):
    """Threads here; a lock is of an open file, whoever opens it."""
    real, times = corpus_index._build, []
    monkeypatch.setattr(corpus_index, "_build", lambda *arguments: times.append(1) or real(*arguments))
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(open_corpus, [write(tmp_path / "a.jsonl")] * 3))
    assert [len(index) for index in found] == [len(RECORDS)] * 3 and times == [1]


def test_a_file_that_cannot_be_read(tmp_path, monkeypatch):
    def refuse(path, *_):
        raise PermissionError(13, "Permission denied", str(path))

    path = write(tmp_path / "a.jsonl")
    monkeypatch.setattr(Path, "open", refuse)  # root may read everything
    with pytest.raises(ConfigError, match=r"a\.jsonl: Permission denied; make it readable"):
        open_corpus(path)


def test_a_full_disk_leaves_nothing_behind(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(
        corpus_index.tantivy, "Document", lambda **fields: (_ for _ in ()).throw(ValueError("No space left"))
    )
    with pytest.raises(ConfigError, match=r"cannot be written to .*\(No space left\); make room there"):
        open_corpus(write(tmp_path / "a.jsonl"))
    assert [item.name for item in cache.iterdir() if not item.name.endswith(".lock")] == []


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    path = write(tmp_path / "a.jsonl")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match=r"cannot be made .* XDG_CACHE_HOME"):
        open_corpus(path)


@pytest.mark.parametrize(
    ("text", "wanted", "chars", "expected"),
    [
        ("a b c", "zzz", 3, "a b"),
        ("a b c", "c", 0, ""),
        ("tower " * 50 + "old tower, new bridge", "the bridges of old", 40, "old tower, new bridge"),
        ("x" * 300_000 + " bridge", "bridge", 5, "xxxxx"),  # not looked at so far
        ("(a) 100% [b", "100% [b (a)", 40, "(a) 100% [b"),
    ],
)
def test_passages(text, wanted, chars, expected):
    assert passage(text, wanted, chars) == expected
