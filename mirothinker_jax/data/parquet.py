"""Parquet tables: a column `messages`, perhaps `tools`; nested, or as JSON text. By pyarrow, an extra.

Rows come in order, a few hundred at a time, whatever the size of the row groups; their file is spooled
(data/spool.py). Members of structs that are null count as absent: Arrow cannot say that a struct lacks one. The
index column that pandas writes is dropped.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from typing import Any

from mirothinker_jax.data.strict_json import DataError

_ROWS_AT_ONCE = 256
_PANDAS_INDEX = re.compile(r"__index_level_\d+__")


def parquet_records(path: str, ignore: Container[str] = ()) -> Iterator[tuple[int, Any]]:
    """(row number from 1, record) of a table's rows. Columns that are ignored are not read.

    Raises:
      DataError: a damaged file; pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise DataError(
            f"{path}: file: Parquet needs pyarrow; pip install 'mirothinker-jax[parquet]'"
        ) from None
    row = 0
    try:
        with parquet.ParquetFile(path, memory_map=True) as file:
            names = [name for name in file.schema_arrow.names if not _PANDAS_INDEX.fullmatch(name)]
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                raise ValueError(f"the column {twice!r} stands twice")
            columns = [name for name in names if name not in ignore and f"record.{name}" not in ignore]
            for batch in file.iter_batches(_ROWS_AT_ONCE, columns=columns):
                for record in batch.to_pylist(maps_as_pydicts="strict"):
                    row += 1
                    yield row, _without_absent(record)
    except (pyarrow.ArrowException, OSError, KeyError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{path}: file: cannot be read after row {row} ({reason}); write it anew") from None


def _without_absent(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_absent(item) for key, item in value.items() if item is not None}
    return [_without_absent(item) for item in value] if isinstance(value, list) else value
