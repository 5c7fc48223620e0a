"""Records as they are written, of the files that people write: JSON Lines, plain or gzip, and Parquet tables."""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import Any

from mirothinker_jax.data.jsonl import gzip_records, plain_records
from mirothinker_jax.data.parquet import parquet_records
from mirothinker_jax.data.strict_json import DataError

READABLE = "*.jsonl, *.jsonl.gz or *.parquet"


def numbered_records(
    file: str, form: str, item: str, ignore: Container[str] = ()
) -> Iterator[tuple[int, Any]]:
    """(line or row, record) of a file of this form, as paths.named_files tells it.

    Args:
      item: what a record is, for errors.
      ignore: columns of a table that need not be read.

    Raises:
      DataError: a file of another kind, one that cannot be read, or a line that is not JSON.
    """
    try:
        if form == "jsonl":
            yield from plain_records(file)
        elif form == "gzip":
            yield from gzip_records(file)
        elif form == "parquet":
            yield from parquet_records(file, ignore)
        else:
            raise DataError(f"{file}: file: is {form}, which holds no {item}s here; give {READABLE}")
    except OSError as error:
        raise DataError(f"{file}: file: cannot be read ({error.strerror})") from None
