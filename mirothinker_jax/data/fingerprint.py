"""What tells one set of training data from another: a SHA-256 of it, the same on every machine.

A digest over records says what is trained: messages and tools in order, in canonical form. It does not see white
space, compression, line ends, metadata or the names of files, so JSONL, its gzip and a Parquet table of the same
conversations have the same one.

ArrayRecord files and tfds datasets are not read whole when they are opened: theirs is a digest over the bytes of
their files, at about 1.5 GB/s, once a run. Not safe: files that change while they are open.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from typing import Any

import msgpack

from mirothinker_jax.data.records import Record


class RecordsDigest:
    """Of canonical records, one after the other."""

    def __init__(self):
        self._hash = hashlib.sha256()

    def add(self, record: Record) -> None:
        """The next record."""
        trained = (record["messages"], record.get("tools"))
        # `default` sees whole numbers beyond 64 bits, which msgpack has no form for.
        self._hash.update(msgpack.packb(trained, default=str) or b"")

    def hexdigest(self) -> str:
        """64 hexadecimal digits."""
        return self._hash.hexdigest()


def digest_of_files(paths: Iterable[Any], ignore: Collection[str], part: str = "") -> str:
    """64 hexadecimal digits: of the files' bytes in order, of what of them is read, and of the keys ignored.

    `paths` are pathlib's, or those that tfds uses for buckets.

    Raises OSError where a file cannot be read.
    """
    digests = [hashlib.sha256(repr((part, sorted(ignore))).encode()).hexdigest()]
    for path in paths:
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return digest_of_parts(digests)


def digest_of_parts(fingerprints: Iterable[str]) -> str:
    """The fingerprint of several sources, one after the other."""
    return hashlib.sha256("".join(fingerprints).encode()).hexdigest()
