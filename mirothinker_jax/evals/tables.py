"""The rows of a benchmark's file as it is published: CSV, TSV, Excel, Parquet, JSON and JSON Lines.

A row is (number, {column: value}): the line where it begins in a text file, else its place in the table. All is read
at once. Of a workbook, the first sheet; its formulas count as empty where the file does not hold their values.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mirothinker_jax.data.jsonl import gzip_records, plain_records
from mirothinker_jax.data.parquet import parquet_records
from mirothinker_jax.data.strict_json import DataError, kind, parse_json

Row = tuple[int, dict[str, Any]]


def read_rows(path: str, ignore: Container[str] = ()) -> list[Row]:
    """The rows of a file, whose form its ending tells. Cells of CSV files are text; others keep their types.

    Args:
      ignore: columns of a Parquet file that are not read (pictures).

    Raises:
      DataError: FILE:LINE: what is wrong; way out.
    """
    file = Path(path)
    read = next((READERS[ending] for ending in READERS if path.lower().endswith(ending)), None)
    if file.is_dir():
        raise DataError(f"{path}: file: is a folder; name the file of the questions in it")
    if read is None:
        raise DataError(f"{path}: file: unknown kind; give *{', *'.join(READERS)}")
    try:
        if not file.stat().st_size:
            raise DataError(f"{path}: file: is empty; fetch it anew")
        rows = list(parquet_records(path, ignore) if read is parquet_records else read(path))
    except OSError as error:
        raise DataError(f"{path}: file: cannot be read ({error.strerror or error})") from None
    for number, row in rows:
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number}: record: is {kind(row)}; each is an object")
    if not rows:
        raise DataError(f"{path}: file: holds no question; fetch it anew")
    return rows


def _csv(path: str, delimiter: str = ",") -> Iterator[Row]:
    text = _text(path)
    if text.lstrip().startswith("version https://git-lfs"):
        raise DataError(f"{path}: file: is a pointer of Git LFS; fetch the file itself: git lfs pull")
    limit = csv.field_size_limit(sys.maxsize)  # a cell may be longer than 131,072 characters
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        header, start = None, 1
        for cells in reader:
            line, start = start, reader.line_num + 1
            if not cells:
                continue
            if header is None:
                header = _columns(path, cells)
            elif len(cells) != len(header):
                raise DataError(
                    f"{path}:{line}: row: has {len(cells)} cells, and the header {len(header)}; fetch the file anew, "
                    "or mend the quotes"
                )
            else:
                yield line, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise DataError(f"{path}: file: is no CSV ({error}); fetch it anew") from None
    finally:
        csv.field_size_limit(limit)


def _tsv(path: str) -> Iterator[Row]:
    yield from _csv(path, "\t")


def _xlsx(path: str) -> Iterator[Row]:
    try:
        import openpyxl
    except ImportError:
        raise DataError(
            f"{path}: file: Excel needs openpyxl; pip install 'mirothinker-jax[documents]'"
        ) from None
    try:
        # The library keeps a file open that it could not read.
        content = io.BytesIO(Path(path).read_bytes())
        sheet = openpyxl.load_workbook(content, read_only=True, data_only=True, keep_links=False).worksheets[
            0
        ]
        sheet.reset_dimensions()
        rows = list(sheet.iter_rows(values_only=True))
    except OSError:
        raise
    except Exception as error:  # whatever its readers of XML and zip archives raise
        raise DataError(f"{path}: file: is no Excel workbook ({error}); fetch it anew") from None
    header: list[str] | None = None
    for number, cells in enumerate(rows, 1):
        if all(cell is None for cell in cells):
            continue
        if header is None:
            while cells[-1] is None:
                cells = cells[:-1]
            header = _columns(path, ["" if cell is None else str(cell) for cell in cells])
        else:
            yield number, dict(zip(header, cells, strict=False))


def _json(path: str) -> Iterator[Row]:
    text = _text(path)
    if not text.lstrip().startswith("["):
        yield from plain_records(path)
        return
    try:
        records = parse_json(text)
    except ValueError as error:
        raise DataError(f"{path}: file: unreadable JSON ({error}); fetch it anew") from None
    yield from enumerate(records, 1)


def _text(path: str) -> str:
    """With or without a byte order mark."""
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: file: is not UTF-8 (byte {error.start}); fetch it anew") from None


def _columns(path: str, cells: Sequence[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path}:1: header: has two columns {twice!r}; keep one of them")
    return names


# Ending → reader; of two that fit, the longer stands first.
READERS: Mapping[str, Callable[[str], Iterator[Row]]] = {
    ".jsonl.gz": gzip_records,
    ".jsonl": plain_records,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _tsv,
    ".xlsx": _xlsx,
    ".parquet": parquet_records,
}
