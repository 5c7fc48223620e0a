"""DOCX, XLSX and PPTX to lines, from an archive that archive.py has copied.

Text, tables, links, names of sheets and speakers' notes. Left out: headers, footers, comments, footnotes, deleted
text, charts and pictures; values of formulas that the file does not hold (no formula is computed here).
"""

from __future__ import annotations

import datetime
import io
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

from mirothinker_jax.tools.page_kind import Unreadable
from mirothinker_jax.tools.readable import Page, split_lines
from mirothinker_jax.tools.table_lines import MAX_ROWS, table_lines

_MAX_COLUMNS = 256
_NO_TITLES = ("Word Document", "PowerPoint Presentation")  # what the libraries say where there is none
_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_R_ID = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"  # the same once more, for old Word
_SKIPPED = {
    _FALLBACK,
    *(_W + tag for tag in ("del", "moveFrom", "instrText", "pPr", "rPr", "tblPr", "sectPr")),
}
_BREAKS = {_W + "tab": " ", _W + "br": "\n", _W + "cr": "\n", _W + "noBreakHyphen": "-"}


def read_docx(archive: bytes, url: str, max_chars: int, stop: float) -> Page:
    """Paragraphs and rows of tables in order."""
    import docx

    document = docx.Document(io.BytesIO(archive))
    part = document.part
    links = {key: rel.target_ref for key, rel in part.rels.items() if rel.is_external}
    lines = _bounded(_word_lines(document.element.body, links), max_chars, stop)
    return _page(document.core_properties.title, lines, url)


def read_xlsx(archive: bytes, url: str, max_chars: int, stop: float) -> Page:
    """The rows of all sheets, the first MAX_ROWS of each; a row says its sheet where there are several."""
    import openpyxl

    book = openpyxl.load_workbook(io.BytesIO(archive), read_only=True, data_only=True, keep_links=False)
    sheets = book.worksheets

    def lines() -> Iterator[str]:
        for sheet in sheets:
            sheet.reset_dimensions()  # what a file says of its size is not to be relied on
            rows = sheet.iter_rows(max_col=_MAX_COLUMNS, values_only=True)
            texts = ([_cell_text(value) for value in row] for row in islice(rows, MAX_ROWS))
            before = f"[{' '.join(sheet.title.split())}] " if len(sheets) > 1 else ""
            yield from table_lines(texts, before)
            if next(rows, None) is not None:
                yield f"{before}(only the first {MAX_ROWS:,} rows were read)"

    names = ", ".join(sheet.title for sheet in sheets)
    title = book.properties.title or f"{url} (sheets: {names})"
    return _page(title, _bounded(lines(), max_chars, stop), url)


def read_pptx(archive: bytes, url: str, max_chars: int, stop: float) -> Page:
    """Slides in order: their text, tables and notes."""
    import pptx

    show = pptx.Presentation(io.BytesIO(archive))

    def lines() -> Iterator[str]:
        for number, slide in enumerate(show.slides, start=1):
            for place, line in enumerate(_slide_lines(slide)):
                yield line if place else f"Slide {number}: {line}"

    return _page(show.core_properties.title, _bounded(lines(), max_chars, stop), url)


def _bounded(lines: Iterator[str], max_chars: int, stop: float) -> tuple[list[str], bool]:
    """The lines until they or the time are enough; and whether there were more."""
    found, chars = [], 0
    for line in lines:
        if chars >= max_chars or time.monotonic() > stop:
            return found, True
        found.append(line)
        chars += len(line)
    return found, False


def _page(title: str | None, bounded: tuple[list[str], bool], url: str) -> Page:
    lines, cut = bounded
    if not lines:
        raise Unreadable("an Office file without text")
    title = " ".join((lines[0] if not title or title in _NO_TITLES else title).split())
    return Page(f"{title} (only its beginning was read)" if cut else title, tuple(lines))


def _word_lines(element: Any, links: dict[str, str]) -> Iterator[str]:
    """Of the paragraphs and tables below an element. XML nests at most 256 deep (libxml2's limit), so it recurs."""
    for child in element:
        if child.tag == _W + "p":
            yield from split_lines(_word_text(child, links))
        elif child.tag == _W + "tbl":
            rows = [
                [_word_text(cell, links) for cell in row.iterchildren(_W + "tc")]
                for row in child.iter(_W + "tr")
            ]
            yield from table_lines(rows)
        elif child.tag not in _SKIPPED:
            yield from _word_lines(child, links)


def _word_text(element: Any, links: dict[str, str]) -> str:
    if element.tag == _W + "t":
        return element.text or ""
    if element.tag in _BREAKS:
        return _BREAKS[element.tag]
    if element.tag in _SKIPPED:
        return ""
    text = "".join(_word_text(child, links) for child in element)
    if element.tag == _W + "hyperlink" and text and (target := links.get(element.get(_R_ID))):
        return f"[{text}]({target})"
    return text + "\n" if element.tag == _W + "p" else text


def _cell_text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime.datetime):
        return value.date().isoformat() if value.time() == datetime.time() else value.isoformat(" ")
    if isinstance(value, float) and value.is_integer() and abs(value) < 1 << 53:
        return str(int(value))
    return str(value)


def _slide_lines(slide: Any) -> Iterator[str]:
    yield from _shape_lines(slide.shapes)
    if slide.has_notes_slide and (notes := slide.notes_slide.notes_text_frame):
        yield from split_lines(notes.text.replace("\v", "\n"))


def _shape_lines(shapes: Any) -> Iterator[str]:
    for shape in shapes:
        if hasattr(shape, "shapes"):  # a group
            yield from _shape_lines(shape.shapes)
        elif getattr(shape, "has_table", False):
            yield from table_lines([[cell.text for cell in row.cells] for row in shape.table.rows])
        elif shape.has_text_frame:
            yield from split_lines(shape.text_frame.text.replace("\v", "\n"))
