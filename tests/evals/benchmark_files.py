"""Made-up benchmark files: the inverse of the ciphers, and a writer for each format."""

import base64
import csv
import gzip
import hashlib
import itertools
import json

import openpyxl
import pyarrow
from pyarrow import parquet

CANARY = "made up: 7f3a"


def encode(text, canary=CANARY, cipher="sha256"):
    """The inverse of decode, byte by byte."""
    key = {"sha256": hashlib.sha256(canary.encode()).digest(), "canary": canary.encode()}[cipher]
    return base64.b64encode(
        bytes(a ^ b for a, b in zip(text.encode(), itertools.cycle(key), strict=False))
    ).decode()


def write(path, rows, encoding="utf-8"):
    """Writes rows, dicts of the same keys, in the format that the path's ending names."""
    kind = "".join(path.suffixes)
    if kind in (".csv", ".tsv"):
        with path.open("w", encoding=encoding, newline="") as file:
            writer = csv.DictWriter(file, rows[0], delimiter="\t" if kind == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    elif kind == ".xlsx":
        book = openpyxl.Workbook()
        for row in [list(rows[0]), *(list(row.values()) for row in rows)]:
            book.active.append(row)
        book.save(path)
    elif kind == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif kind == ".json":
        path.write_text(json.dumps(rows, ensure_ascii=False))
    else:
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        path.write_bytes(gzip.compress(lines.encode()) if kind.endswith(".gz") else lines.encode())
    return str(path)
