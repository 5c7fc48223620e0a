"""PDF to lines, by pdfium. Text as it is stored: no OCR, so a scanned page is empty. Forms, notes and layout in
columns are what pdfium makes of them."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

from mirothinker_jax.tools.page_kind import Unreadable
from mirothinker_jax.tools.readable import Page, split_lines

MAX_PAGES = 2_000
_HYPHEN = re.compile("[\x02\ufffe\u00ad]\r?\n?")  # where a word was broken at the end of a line
_FULL_LINE = 0.7  # of the page's longest: such a line runs on, a shorter one is a heading or a row
_SENTENCE_ENDS = (".", "!", "?", ":", "。", "！", "？")


def read_pdf(body: bytes, url: str, max_chars: int, stop: float) -> Page:
    """The lines of its pages, up to `max_chars` characters; where it stopped early, the title says so.

    Args:
      stop: time.monotonic() at which it is enough.

    Raises:
      Unreadable: damaged, locked by a password, or without text.
    """
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(body)
    except pypdfium2.PdfiumError as error:
        if "password" in str(error).lower():
            raise Unreadable("a PDF that needs a password") from error
        raise Unreadable(f"a damaged PDF ({error})") from error
    pages, chars, lines = len(document), 0, []
    last = 0
    for number in range(min(pages, MAX_PAGES)):
        try:
            text = document[number].get_textpage().get_text_bounded()
        except pypdfium2.PdfiumError:
            text = ""  # one damaged page
        found = split_lines("\n".join(_paragraphs(text)))
        chars += sum(map(len, found))
        lines += found
        last = number + 1
        if chars >= max_chars or time.monotonic() > stop:
            break
    if not lines:
        raise Unreadable(
            f"a PDF without text ({pages:,} pages, perhaps scanned)" if pages else "an empty PDF"
        )
    title = " ".join(document.get_metadata_dict().get("Title", "").split()) or lines[0]
    return Page(title if last == pages else f"{title} (pages 1–{last:,} of {pages:,} read)", tuple(lines))


def _paragraphs(text: str) -> Iterator[str]:
    """Lines of running text joined up to the end of a sentence; the rest as they stand."""
    lines = [line.strip() for line in _HYPHEN.sub("", text).splitlines()]
    full = _FULL_LINE * max(map(len, lines), default=0)
    begun = ""
    for line in lines:
        begun = f"{begun} {line}" if begun else line
        if len(line) < full or line.endswith(_SENTENCE_ENDS):
            yield begun
            begun = ""
    yield begun
