"""What a server really sent: by its first bytes, then by what it says, then by how the text looks.

Servers lie. A PDF comes as octet-stream, a login page as a PDF, a table as plain text, anything without a type. The
bytes decide wherever they can (the WHATWG MIME Sniffing Standard's way); only between kinds of text does the
Content-Type header. Left out: guessing among formats that nothing here reads, beyond naming the usual ones.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

HTML, TEXT, CSV, TSV, PDF, ZIP = "HTML", "text", "CSV", "TSV", "PDF", "ZIP"
FILE_MARKS = (b"%PDF-", b"PK\x03\x04")  # of what is worth nothing when it is cut

_SNIFFED_BYTES = 1 << 12
# fmt: off
_NAMES = (
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office file (.doc, .xls, .ppt) or one with a password"),
    (b"{\\rtf", "RTF"), (b"%!PS", "PostScript"), (b"PK\x05\x06", "an empty ZIP archive"),
    (b"\x89PNG\r\n", "a PNG image"), (b"\xff\xd8\xff", "a JPEG image"), (b"GIF8", "a GIF image"),
    (b"RIFF", "a WebP image, sound or video"), (b"II*\x00", "a TIFF image"), (b"MM\x00*", "a TIFF image"),
    (b"\x1f\x8b", "a gzip archive"), (b"7z\xbc\xaf\x27\x1c", "a 7z archive"), (b"Rar!\x1a\x07", "a RAR archive"),
    (b"BZh", "a bzip2 archive"), (b"\xfd7zXZ\x00", "an xz archive"), (b"(\xb5/\xfd", "a zstd archive"),
    (b"ID3", "sound (MP3)"), (b"OggS", "sound or video (Ogg)"), (b"fLaC", "sound (FLAC)"),
    (b"\x1aE\xdf\xa3", "a video (Matroska)"), (b"\x7fELF", "a program"), (b"MZ\x90", "a program"),
    (b"wOFF", "a font"), (b"wOF2", "a font"), (b"SQLite format 3\x00", "an SQLite database"),
    (b"PAR1", "a Parquet file"), (b"\x89HDF\r\n", "an HDF5 file"),
)
# fmt: on
_BOMS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
_CONTROL = bytes(set(range(0x20)) - {0x08, 0x09, 0x0A, 0x0C, 0x0D, 0x1B})  # ISO-2022 has escapes in its text
_MARKUP = re.compile(
    rb"<(?:!doctype\s|!--|(?:html|head|body|title|meta|link|script|style|div|p|span|br|table|h[1-6]|a|ul|form)\b)",
    re.IGNORECASE,
)
_ENDINGS = {".csv": CSV, ".tsv": TSV, ".tab": TSV, ".txt": TEXT, ".md": TEXT, ".json": TEXT, ".jsonl": TEXT}


class Unreadable(ValueError):
    """No page to read; the message says in a few words what it is instead: "a PDF that needs a password"."""


def page_kind(body: bytes, content_type: str, url: str) -> str:
    """HTML, TEXT, CSV, TSV, PDF or ZIP (office.py looks into archives).

    >>> page_kind(b"%PDF-1.7", "text/html", "http://a.test/")
    'PDF'

    Raises:
      Unreadable: it is none of them.
    """
    head = body[:_SNIFFED_BYTES]
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n\x00")
    said = content_type.partition(";")[0].strip().lower()
    if start.startswith(b"%PDF-"):
        return PDF
    if head.startswith(b"PK\x03\x04"):
        return ZIP
    for mark, name in _NAMES:
        if head.startswith(mark):
            raise Unreadable(name)
    if head[4:8] == b"ftyp":
        raise Unreadable("a video or an image (MP4, HEIC)")
    if not head.startswith(_BOMS) and "charset=utf-16" not in content_type.lower() and _is_binary(head):
        raise Unreadable(f"{said}, bytes that are no text" if said else "bytes that are no text")
    if b"%PDF-" in head[:1024] and not _MARKUP.search(start[:64]):  # as PDF readers allow
        return PDF
    return _kind_of_text(start, said, urlsplit(url).path.lower())


def _kind_of_text(start: bytes, said: str, path: str) -> str:
    if "html" in said:
        return HTML
    ending = next((kind for end, kind in _ENDINGS.items() if path.endswith(end)), "")
    if said in ("text/csv", "application/csv"):
        return CSV
    if said == "text/tab-separated-values":
        return TSV
    if said == "text/plain":
        return ending or TEXT
    if said.startswith("text/") or said.endswith(("json", "xml", "javascript", "yaml")):
        return TEXT
    # No type, octet-stream, or a document's on what is none: a login page, an error, a table.
    if _MARKUP.search(start[:1445]):
        return HTML
    return ending or TEXT


def _is_binary(head: bytes) -> bool:
    """Whether more than a few bytes are those of no text; a page may hold stray ones."""
    return len(head) - len(head.translate(None, _CONTROL)) > max(8, len(head) // 50)
