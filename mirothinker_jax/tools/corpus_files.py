"""A corpus on disk as documents: JSON Lines records, or a folder of text, Markdown, HTML and JSON Lines files.

A record is {url or docid, title?, text}; the names that public corpora use instead are known (_ADDRESSES, _TEXTS). A
file's address is its path in the folder. What is not a web address becomes one on a host of its own, so that hits and
links are read like any other page. Left out: other formats (write them as JSON Lines), and files whose name begins
with a dot.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import quote

import xxhash

from mirothinker_jax.config import ConfigError, check
from mirothinker_jax.tools.encoding import decode_page
from mirothinker_jax.tools.readable import read_html

CORPUS_SITE = "http://corpus.test/"  # of documents without a web address; .test is nobody's
_RECORDS = (".jsonl", ".jsonl.gz")
_HTML = (".html", ".htm")
_PLAIN = (".txt", ".md")
_ADDRESSES = ("url", "docid", "id", "_id")  # the first one that says something
_TEXTS = ("text", "contents")
_READ_BYTES = 1 << 20
_TITLE_CHARS = 120
_FRONT_MATTER = re.compile(r"\s*---\s*\n(?:(?!---\s*\n).*\n){0,50}?title:[ \t]*(\S.*)", re.IGNORECASE)

Advance = Callable[[int], object]  # told how many more bytes of the files were read


class Document(NamedTuple):
    """`url` is where it is read; `title` is one line."""

    url: str
    title: str
    text: str


def find_files(corpus: str) -> list[Path]:
    """The files of a corpus, in the order in which they are read.

    Raises:
      ConfigError: there is none.
    """
    root = Path(corpus)
    check(
        root.exists(),
        f"tools.corpus: {corpus} is not there (now in {Path.cwd()}); give a .jsonl file or a folder",
    )
    if not root.is_dir():
        named = root.name.lower().endswith(_RECORDS)
        check(
            named, f"tools.corpus: {corpus} is not a .jsonl or .jsonl.gz file; give one, or a folder of files"
        )
        return [root]
    endings = (*_RECORDS, *_HTML, *_PLAIN)
    found = []
    for folder, inner, names in os.walk(root):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        paths = [Path(folder, name) for name in sorted(names) if not name.startswith(".")]
        found += [path for path in paths if path.name.lower().endswith(endings) and path.is_file()]
    check(
        bool(found),
        f"tools.corpus: {corpus} holds no file that ends in {', '.join(endings)}; give another folder",
    )
    return found


def fingerprint(corpus: str, files: list[Path], advance: Advance) -> str:
    """A digest of what is in the files, and of their paths in the folder, which are addresses."""
    digest = xxhash.xxh3_128()
    for path in files:
        name, size = _name(corpus, path).encode("utf-8", "surrogateescape"), path.stat().st_size
        digest.update(b"%d %b %d\n" % (len(name), name, size))
        with path.open("rb") as file:
            while block := file.read(_READ_BYTES):
                digest.update(block)
                advance(len(block))
    return digest.hexdigest()


def read_documents(corpus: str, files: list[Path], advance: Advance) -> Iterator[Document]:
    """The documents of all files, in order.

    Raises:
      ConfigError: a record that is none, with FILE:LINE.
    """
    for path in files:
        name = path.name.lower()
        if name.endswith(_RECORDS):
            yield from _records(path, advance)
            continue
        body = path.read_bytes()
        advance(len(body))
        url = CORPUS_SITE + quote(_name(corpus, path).encode("utf-8", "surrogateescape"))
        if name.endswith(_HTML):
            page = read_html(decode_page(body, ""), url)
            yield Document(url, page.title, "\n".join(page.lines))
        else:
            text = decode_page(body, "text/plain")
            yield Document(url, first_line(text) or path.stem, text)


def first_line(text: str) -> str:
    """What a text seems to be called: the title in its front matter, else its first line, without Markdown's marks.

    >>> first_line("---\\ntitle: A tower\\n---\\nIt is high."), first_line("\\n# A tower\\nIt is high.")
    ('A tower', 'A tower')
    """
    found = _FRONT_MATTER.match(text)
    line = found[1] if found else text.lstrip()[: 4 * _TITLE_CHARS].partition("\n")[0].lstrip("# ")
    return " ".join(line.strip().strip("'\"").split())[:_TITLE_CHARS]


def _name(corpus: str, path: Path) -> str:
    """The path in the folder; of a corpus that is one file, nothing, for it may be moved."""
    return "" if path == Path(corpus) else path.relative_to(corpus).as_posix()


def _records(path: Path, advance: Advance) -> Iterator[Document]:
    with path.open("rb") as raw:
        packed = path.name.lower().endswith(".gz")
        file = gzip.GzipFile(fileobj=raw) if packed else raw
        before = 0
        try:
            for number, line in enumerate(_lines(file), 1):
                if (now := raw.tell()) != before:
                    advance(now - before)
                    before = now
                if line.strip():
                    yield _document(line, f"{path}:{number}")
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ConfigError(
                f"tools.corpus: {path}: damaged gzip ({error}); fetch or write it anew"
            ) from None


def _lines(file: BinaryIO | gzip.GzipFile) -> Iterator[bytes]:
    return iter(file.readline, b"")  # not file's own iterator, after which it cannot tell() where it is


def _document(line: bytes, where: str) -> Document:
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise _unreadable(where, f"line: unreadable JSON ({reason}); put one object on each line") from None
    if not isinstance(record, dict):
        raise _unreadable(where, 'line: is no JSON object; write {"url": …, "title": …, "text": …}')
    address = next((text for name in _ADDRESSES if (text := _one_line(record.get(name)))), "")
    if not address:
        raise _unreadable(
            where, "url: is missing, and so is docid; give one of them, by which the page is read"
        )
    name = next((name for name in _TEXTS if name in record), "")
    if not name:
        raise _unreadable(where, "text: is missing, and so is contents; give the document's text")
    text, title = record[name], record.get("title")
    if not isinstance(text, str):
        raise _unreadable(
            where, f"{name}: is {json.dumps(text)[:40]}; write the document's text as one string"
        )
    text = _whole(text)
    return Document(web_url(address), _one_line(title) or first_line(text) or address, text)


def web_url(address: str) -> str:
    """A web address as it is; anything else as one of CORPUS_SITE.

    >>> web_url("https://a.test/b"), web_url("doc 7")
    ('https://a.test/b', 'http://corpus.test/doc%207')
    """
    return address if re.match(r"https?://", address, re.IGNORECASE) else CORPUS_SITE + quote(address)


def _one_line(value: Any) -> str:
    known = isinstance(value, (str, int)) and not isinstance(value, bool)
    return _whole(" ".join(str(value).split())) if known else ""


def _whole(text: str) -> str:
    """Without halves of surrogate pairs, which no UTF-8 can say."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _unreadable(where: str, what: str) -> ConfigError:
    return ConfigError(f"tools.corpus: {where}: {what}")
