"""Bodies of HTTP responses, read and decompressed within limits.

Both what comes over the wire and what it expands to are bounded: a bomb stops at the limit, and so does a stream
that expands to nothing. Decompression is by zlib, piece by piece; only what the client asks for (gzip, deflate, one
layer) is decoded, and anything else is an error, not gibberish for the model to read.
"""

from __future__ import annotations

import zlib

import aiohttp

from mirothinker_jax.tools.page_kind import FILE_MARKS

ACCEPT_ENCODING = "gzip, deflate"
_READ_BYTES = 1 << 16
_MARK_BYTES = max(map(len, FILE_MARKS))


async def read_body(
    content: aiohttp.StreamReader, encoding: str, max_bytes: int, max_file_bytes: int = 0
) -> bytes:
    """The body, cut at `max_bytes`, by its Content-Encoding header.

    Args:
      max_file_bytes: where this is more, the limit of a body that begins as one of FILE_MARKS does.

    Raises:
      ValueError: an encoding that was not asked for, or bytes that are none of it.
    """
    inflate = _inflater(encoding)
    body, wire, limit = bytearray(), 0, max(max_bytes, max_file_bytes)
    while len(body) < limit and wire < limit:
        raw = await content.read(min(limit - wire, _READ_BYTES))
        if not raw:
            break
        wire += len(raw)
        body += inflate.feed(raw, limit - len(body)) if inflate else raw
        begun = len(body) >= _MARK_BYTES or wire >= max_bytes
        if begun and not body.startswith(FILE_MARKS):
            limit = max_bytes
    return bytes(body[:limit])


class _Inflater:
    def __init__(self, gzip: bool):
        self._gzip = gzip
        self._stream = zlib.decompressobj(31) if gzip else None

    def feed(self, raw: bytes, room: int) -> bytes:
        """What `raw` expands to, at most `room` bytes of it; after that many there is nothing more to feed."""
        if self._stream is None:  # deflate means zlib's format; some servers send it bare
            self._stream = zlib.decompressobj(15 if raw[0] & 15 == zlib.DEFLATED else -15)
        parts = []
        while raw and room > 0:
            if self._stream.eof:
                if not self._gzip or raw[0] != 0x1F:
                    break  # bytes after the end, which browsers ignore
                self._stream = zlib.decompressobj(31)  # a file of several members
            try:
                part = self._stream.decompress(raw, room)
            except zlib.error as error:
                raise ValueError(f"its compressed body is damaged ({error})") from error
            parts.append(part)
            room -= len(part)
            raw = self._stream.unused_data if self._stream.eof else self._stream.unconsumed_tail
        return b"".join(parts)


def _inflater(encoding: str) -> _Inflater | None:
    match encoding.strip().lower():
        case "" | "identity":
            return None
        case "gzip" | "x-gzip":
            return _Inflater(gzip=True)
        case "deflate":
            return _Inflater(gzip=False)
    raise ValueError(f"its Content-Encoding {encoding[:80]!r} was not asked for")
