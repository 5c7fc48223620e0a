"""The search index of a corpus: BM25 by tantivy, built once and kept under what the corpus contains.

An index appears whole or not at all; a build that was killed starts over. Processes of one machine take turns (flock):
the first builds, the others wait and use it. Of several machines that share a cache folder each may build, and the
first one's index stays. Indexes of corpora that changed or are gone stay, too: remove the folder.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import shutil
import socket
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from urllib.parse import unquote

import tantivy

from mirothinker_jax.config import ConfigError, check
from mirothinker_jax.tools.corpus_files import Document, find_files, fingerprint, read_documents
from mirothinker_jax.tools.guard import web_address
from mirothinker_jax.tools.relevance import asked_terms, unspaced_terms
from mirothinker_jax.tools.spec import ToolError

logger = logging.getLogger(__name__)

_FORMAT = 1  # of what is indexed and how; another number, and no index of before is used
_TITLE_WEIGHT = 2.0  # of a word there, where one in the text counts 1
_TOKEN_BYTES = 40  # what is longer is no word
_PARTS = 1_000  # of a page that several records share, at most
_SAY_EVERY_S = 10.0
_MANIFEST = "manifest.json"
_NO_LOCKS_HERE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class CorpusIndex:
    """An index on disk, read only: any number of processes and threads may search it."""

    def __init__(self, folder: Path):
        self._index = tantivy.Index.open(str(folder))
        self._index.register_tokenizer("words", _analyzer())
        self._index.config_reader(reload_policy="Manual")  # else a thread watches the folder
        self._index.reload()
        self._searcher = self._index.searcher()
        self._words = _analyzer()

    def __len__(self) -> int:
        return self._searcher.num_docs

    def find(self, text: str, count: int, skip: int = 0) -> list[Document]:
        """The best documents after the first `skip`, at most `count`. Equally good ones come in the corpus's order,
        however the index happens to be laid out."""
        terms = asked_terms(text)
        words = self._words.analyze(" ".join(terms))
        clauses = [("title", word, _TITLE_WEIGHT) for word in words]
        clauses += [("text", word, 1.0) for word in words]
        clauses += [("unspaced", term, 1.0) for term in terms if next(unspaced_terms(term), "")]
        query = tantivy.Query.boolean_query(
            [(tantivy.Occur.Should, self._term(*clause)) for clause in clauses]
        )
        if not clauses or skip >= len(self):
            return []
        limit = skip + count + 1
        while True:
            limit = min(limit, len(self))
            hits = [
                (_rounded(score), at) for score, at in self._searcher.search(query, limit, count=False).hits
            ]
            if limit == len(self) or len(hits) < limit or hits[-1][0] < hits[skip + count - 1][0]:
                break
            limit *= 2  # there may be more that are as good as the last one
        if skip >= len(hits):
            return []
        worst, best = hits[min(skip + count, len(hits)) - 1][0], hits[skip][0]
        better = sum(score > best for score, _ in hits)
        tied = [(score, at) for score, at in hits if worst <= score <= best]
        places = self._searcher.fast_field_values("place", [at for _, at in tied])
        order = sorted(range(len(tied)), key=lambda i: (-tied[i][0], places[i]))
        return [_document(self._searcher.doc(tied[i][1])) for i in order[skip - better :][:count]]

    def read(self, url: str) -> Document | None:
        """What is at an address, however it is spelled: all its records in order, as one; None: nothing."""
        query = tantivy.Query.term_query(self._index.schema, "key", _key(url))
        hits = self._searcher.search(query, _PARTS, count=False).hits
        found = sorted(
            (self._searcher.doc(address) for _, address in hits), key=lambda document: document["place"][0]
        )
        if not found:
            return None
        parts = [_document(document) for document in found]
        return parts[0]._replace(text="\n".join(part.text for part in parts))

    def _term(self, field: str, word: str, weight: float) -> tantivy.Query:
        query = tantivy.Query.term_query(self._index.schema, field, word, "freq")
        return tantivy.Query.boost_query(query, weight) if weight != 1 else query


def open_corpus(corpus: str) -> CorpusIndex:
    """The index of a folder or a JSON Lines file, built where there is none of this content yet.

    Raises:
      ConfigError: no corpus there, none in it, a record that is none (FILE:LINE), or no room for the index.
    """
    try:
        files = find_files(corpus)
        key = _fingerprint(corpus, files, "reading")
    except OSError as error:
        raise ConfigError(f"tools.corpus: {error.filename}: {error.strerror}; make it readable") from None
    cache = _cache()
    folder = cache / key
    if not _is_whole(folder):
        with _alone(cache, key) as alone:
            if not _is_whole(folder):
                if alone:  # else somebody may be writing there
                    for left in cache.glob(f".{key}.{socket.gethostname()}.*"):
                        shutil.rmtree(left, ignore_errors=True)
                _build(corpus, files, key, folder)
    try:
        return CorpusIndex(folder)
    except ValueError as error:
        raise ConfigError(f"tools.corpus: its index cannot be read ({error}); remove {folder}") from None


def _build(corpus: str, files: list[Path], key: str, folder: Path) -> None:
    scratch = folder.with_name(f".{key}.{socket.gethostname()}.{os.getpid()}")
    try:
        scratch.mkdir()
        count = _write(corpus, files, scratch)
        check(count > 0, f"tools.corpus: {corpus} holds no document; give another one")
        check(
            _fingerprint(corpus, files, "comparing") == key,
            f"tools.corpus: {corpus} was changed while it was read; start again when it stays as it is",
        )
        sizes = {path.name: path.stat().st_size for path in scratch.iterdir() if path.name[0] != "."}
        (scratch / _MANIFEST).write_text(json.dumps({"corpus": str(Path(corpus).absolute()), "files": sizes}))
        if folder.exists():  # a damaged one
            shutil.rmtree(folder)
        try:
            scratch.rename(folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        logger.info("tools.corpus: %d documents, indexed in %s", count, folder)
    except OSError as error:
        raise ConfigError(
            f"tools.corpus: its index cannot be written to {folder.parent} ({error.strerror}); make room there, or "
            "name another folder with the environment variable XDG_CACHE_HOME"
        ) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write(corpus: str, files: list[Path], folder: Path) -> int:
    """Writes the index; returns the number of documents."""
    schema = tantivy.SchemaBuilder()
    schema.add_text_field("key", tokenizer_name="raw", index_option="basic")
    schema.add_text_field("url", stored=True, tokenizer_name="raw", index_option="basic")
    schema.add_text_field("title", stored=True, tokenizer_name="words", index_option="freq")
    schema.add_text_field("text", stored=True, tokenizer_name="words", index_option="freq")
    schema.add_text_field("unspaced", tokenizer_name="whitespace", index_option="freq")
    schema.add_integer_field("place", stored=True, fast=True)
    index = tantivy.Index(schema.build(), path=str(folder))
    index.register_tokenizer("words", _analyzer())
    count = 0
    try:
        writer = index.writer()
        try:
            for count, document in enumerate(read_documents(corpus, files, _Pace("indexing", files)), 1):
                unspaced = " ".join(unspaced_terms(f"{document.title}\n{document.text}"))
                fields = {
                    **document._asdict(),
                    "key": _key(document.url),
                    "unspaced": unspaced,
                    "place": count,
                }
                writer.add_document(tantivy.Document(**fields))
            writer.commit()
        finally:
            writer.wait_merging_threads()  # else they go on writing into a folder that is about to go
    except ConfigError:
        raise
    except ValueError as error:  # tantivy's, such as a full disk
        raise OSError(errno.EIO, str(error)) from None
    return count


def _analyzer() -> tantivy.TextAnalyzer:
    """English endings and accents do not count; words of other languages pass as they are, or nearly."""
    steps = tantivy.Filter
    builder = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
    for step in (
        steps.remove_long(_TOKEN_BYTES),
        steps.lowercase(),
        steps.ascii_fold(),
        steps.stemmer("english"),
    ):
        builder = builder.filter(step)
    return builder.build()


def _key(url: str) -> str:
    """What the spellings of an address have in common."""
    with contextlib.suppress(ToolError):
        url = web_address(url)
    return unquote(url.partition("#")[0].partition("://")[2]).removeprefix("www.").rstrip("/")


def _rounded(score: float) -> float:
    """Without what the order of adding its parts, which depends on the layout, does to it."""
    return float(f"{score:.5g}")


def _document(stored: tantivy.Document) -> Document:
    return Document(*(stored[name][0] for name in Document._fields))


def _fingerprint(corpus: str, files: list[Path], what: str) -> str:
    return f"{fingerprint(corpus, files, _Pace(what, files))}-{_FORMAT}-{version('tantivy')}"


def _cache() -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME", ""))
    folder = (home if home.is_absolute() else Path("~/.cache").expanduser()) / "mirothinker-jax" / "corpora"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"tools.corpus: {folder} for its index cannot be made ({error.strerror}); name a folder with the "
            "environment variable XDG_CACHE_HOME"
        ) from None
    return folder


def _is_whole(folder: Path) -> bool:
    try:
        sizes = json.loads((folder / _MANIFEST).read_text())["files"]
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


@contextlib.contextmanager
def _alone(cache: Path, key: str) -> Iterator[bool]:
    """Waits for other processes of this machine; False where the file system has no locks."""
    file = os.open(cache / f".{key}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("tools.corpus: another process indexes it; waiting")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS_HERE:
                raise
            yield False
            return
        yield True
    finally:
        os.close(file)


class _Pace:
    """Says every few seconds how far a long reading is; nothing of a short one."""

    def __init__(self, what: str, files: list[Path]):
        self._what, self._total, self._done = what, sum(path.stat().st_size for path in files), 0
        self._start = self._said = time.monotonic()

    def __call__(self, count: int) -> None:
        self._done += count
        now = time.monotonic()
        if now - self._said >= _SAY_EVERY_S:
            self._said = now
            left = (now - self._start) * (self._total / max(self._done, 1) - 1)
            figures = (self._what, self._done / 1e6, self._total / 1e6, left)
            logger.info("tools.corpus: %s, %.0f of %.0f MB, %.0f s left", *figures)
