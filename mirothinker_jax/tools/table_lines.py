"""Rows of a table as lines that each make sense alone: `column: value | column: value`.

The extractor (relevance.py) shows a few lines of a table out of their place, so each carries the names of its
columns. CSV files do not say what separates their cells: what splits the first rows most evenly is taken.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from mirothinker_jax.tools.page_kind import TSV
from mirothinker_jax.tools.readable import Page, split_lines

MAX_ROWS = 20_000
_SAMPLE_CHARS, _SAMPLE_ROWS = 1 << 16, 50
_DELIMITERS = ",;\t|"
_NUMBER = re.compile(r"[-+]?[\d.,\s%€$£]+")


def read_csv(text: str, kind: str, url: str) -> Page:
    """The rows of a file of comma-, semicolon-, tab- or bar-separated values, the first MAX_ROWS of them."""
    text = text.replace("\x00", "")
    rows = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if kind == TSV else _delimiter(text))
    try:
        lines = list(islice(table_lines(rows), MAX_ROWS))
    except csv.Error:  # a cell of more than 131,072 characters: a quote that nobody closed
        return Page(url, split_lines(text))
    title = f"{url} (first {MAX_ROWS:,} rows read)" if len(lines) == MAX_ROWS else url
    return Page(title, tuple(lines))


def table_lines(rows: Iterable[Sequence[str]], before: str = "") -> Iterator[str]:
    """A line for each row that is not empty, with `before` in front; long ones are split.

    >>> list(table_lines([["city", "height"], ["Paris", "35"]]))
    ['city | height', 'city: Paris | height: 35']
    """
    header: list[str] | None = None
    for row in rows:
        cells = [" ".join(cell.split()) for cell in row]
        if not any(cells):
            continue
        if header is None:
            header = cells if _is_header(cells) else []
            shown = [cell for cell in cells if cell]
        else:
            names = [*header, *[""] * (len(cells) - len(header))]
            pairs = zip(names, cells, strict=False)
            shown = [f"{name}: {cell}" if name else cell for name, cell in pairs if cell]
        # The first two columns of a table without names are a key and its value, as in readable.py.
        between = ": " if len(shown) == 2 and not header else " | "
        yield from split_lines(before + between.join(shown))


def _is_header(cells: Sequence[str]) -> bool:
    names = [cell for cell in cells if cell]
    return len(names) > 1 and len(set(names)) == len(names) and not any(map(_NUMBER.fullmatch, names))


def _delimiter(text: str) -> str:
    best, found = (0.0, 0), ","
    sample = text[:_SAMPLE_CHARS]
    for delimiter in _DELIMITERS:
        rows = list(islice(csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter), _SAMPLE_ROWS))
        widths = Counter(len(row) for row in rows if row)
        if not widths:
            continue
        width, count = widths.most_common(1)[0]
        if width > 1 and (score := (count / widths.total(), width)) > best:
            best, found = score, delimiter
    return found
