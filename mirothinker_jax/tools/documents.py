"""What came from a server, of whatever kind, as a Page of lines; and the few of them that answer a question.

Nothing here asks the network or the event loop: it runs where its caller wants (browse.py: short pages at once,
everything else in a process of its own, reading_pool.py). Libraries for PDF and Office files are an extra of the
package and are imported at the first such file.
"""

from __future__ import annotations

import importlib.util
import re
import time
import warnings
from dataclasses import dataclass

from mirothinker_jax.tools import office
from mirothinker_jax.tools.archive import copy_xml
from mirothinker_jax.tools.encoding import decode_page
from mirothinker_jax.tools.page_kind import CSV, HTML, PDF, TSV, ZIP, Unreadable, page_kind
from mirothinker_jax.tools.pdf import read_pdf
from mirothinker_jax.tools.readable import READERS, Page, split_lines
from mirothinker_jax.tools.relevance import best_lines
from mirothinker_jax.tools.table_lines import read_csv

PAGE_CHARS = 409_600  # of a page, before extraction
LIBRARIES = {PDF: "pypdfium2", "DOCX": "docx", "XLSX": "openpyxl", "PPTX": "pptx"}  # kind → module
_DOCUMENT_READERS = {
    **{PDF: read_pdf, "DOCX": office.read_docx},
    **{"XLSX": office.read_xlsx, "PPTX": office.read_pptx},
}
_REASON_CHARS = 200
_HEADING = re.compile(r"^#[ \t]+(\S.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Source:
    """The body of a response as it came, its Content-Type header and its address. `reader`: of readable.READERS."""

    body: bytes
    content_type: str
    url: str
    reader: str = "rules"


def missing_libraries() -> list[str]:
    """Kinds of documents that cannot be read here, as their library is not installed."""
    return [kind for kind, module in LIBRARIES.items() if importlib.util.find_spec(module) is None]


def choose_lines(page: Page, wanted: str, count: int) -> Page:
    """The page's title and the `count` lines of it that answer `wanted` best; with count 0, all of its lines."""
    if not count:
        return page
    # The title is shown anyway, so a heading that repeats it would waste a line.
    lines = [line for line in page.lines if line != page.title]
    return Page(page.title, tuple(best_lines(lines, wanted, count)))


def read_page(source: Source, seconds: float) -> Page:
    """The page's title and all of its lines, up to about PAGE_CHARS characters.

    Args:
      seconds: after which a document of many pages is read no further, and its title says so.

    Raises:
      Unreadable: nothing here reads it, or it is damaged, locked, empty or too large.
    """
    kind, body = page_kind(source.body, source.content_type, source.url), source.body
    if kind == ZIP:
        kind, body = copy_xml(body)
    if kind in LIBRARIES:
        return _read_document(kind, body, source.url, seconds)
    text = decode_page(body, source.content_type)[:PAGE_CHARS]
    if kind == HTML:
        return READERS[source.reader](text, source.url)
    if kind in (CSV, TSV):
        return read_csv(text, kind, source.url)
    heading = _HEADING.search(text) if "markdown" in source.content_type else None
    return Page(heading[1] if heading else source.url, split_lines("\n".join(text.splitlines())))


def _read_document(kind: str, body: bytes, url: str, seconds: float) -> Page:
    if importlib.util.find_spec(LIBRARIES[kind]) is None:
        raise Unreadable(f"{kind}, for which no reader is installed here")
    stop = time.monotonic() + seconds
    try:
        with warnings.catch_warnings(action="ignore"):
            return _DOCUMENT_READERS[kind](body, url, PAGE_CHARS, stop)
    except (Unreadable, MemoryError):
        raise
    except Exception as error:  # on damaged files the libraries raise whatever happens to go wrong
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise Unreadable(f"a damaged {kind} file ({reason[:_REASON_CHARS]})") from error
