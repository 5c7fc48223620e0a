"""TensorBoard's event files, as far as scalars need them: what TensorBoard reads, without TensorFlow or torch.

A file is a sequence of records: length (uint64), its checksum, an `Event` message of Protocol Buffers, its checksum
(uint32 each, little-endian, CRC-32C masked as TFRecord does it). The libraries that write such files import
TensorFlow or torch where they are installed: four seconds of each start. Left out: everything but scalars.

Not safe: two writers of one file. Nothing is flushed to disk, only to the operating system.
"""

from __future__ import annotations

import functools
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

_CASTAGNOLI = 0x82F63B78  # the polynomial of CRC-32C, its bits reversed
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_FLOAT32_MAX = 3.4028234663852886e38
_SESSION_STARTS = 1  # SessionLog.status START


class EventFile:
    """A new file in `folder`, which is made where it is missing.

    Args:
      first_step: where given, TensorBoard hides what other files of the folder have from this step on.
    """

    def __init__(self, folder: Path, first_step: int | None = None):
        folder.mkdir(parents=True, exist_ok=True)
        now = time.time_ns()
        # TensorBoard reads a folder's files in the order of their names. The nanoseconds tell a quick restart's apart.
        self._file = (folder / f"events.out.tfevents.{now // 10**9}.{socket.gethostname()}.{now}").open("xb")
        self._append(_field(3, _BYTES, b"brain.Event:2"))
        if first_step is not None:
            session = _field(1, _VARINT, _varint(_SESSION_STARTS))
            self._append(_field(2, _VARINT, _varint(first_step)) + _field(7, _BYTES, session))
        self._file.flush()

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """One event with these finite numbers, flushed. Beyond float32 the largest one is written."""
        values = (
            _field(1, _BYTES, name.encode()) + _field(2, _FIXED32, _float32(value))
            for name, value in scalars.items()
        )
        summary = b"".join(_field(1, _BYTES, value) for value in values)
        self._append(_field(2, _VARINT, _varint(step)) + _field(5, _BYTES, summary))
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _append(self, fields: bytes) -> None:
        event = _field(1, _FIXED64, struct.pack("<d", time.time())) + fields
        length = struct.pack("<Q", len(event))
        self._file.write(length + _masked_crc32c(length) + event + _masked_crc32c(event))


def _field(number: int, wire_type: int, value: bytes) -> bytes:
    """A field of a message; bytes with their length before them."""
    length = _varint(len(value)) if wire_type == _BYTES else b""
    return _varint(number << 3 | wire_type) + length + value


def _float32(value: float) -> bytes:
    return struct.pack("<f", max(-_FLOAT32_MAX, min(value, _FLOAT32_MAX)))


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


@functools.cache
def _crc_table() -> list[int]:
    table = list(range(256))
    for _ in range(8):
        table = [crc >> 1 ^ _CASTAGNOLI * (crc & 1) for crc in table]
    return table


def _masked_crc32c(data: bytes) -> bytes:
    table, crc = _crc_table(), 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
