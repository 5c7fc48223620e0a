"""An Office file made safe to open: its XML parts copied, within limits, into a fresh archive.

What a ZIP archive says about itself may be a lie: sizes, two members of one name, members that overlap. The copy
is honest, as its members were decompressed here, piece by piece, up to a limit; libraries open only the copy.
Everything that is not XML (images, sound, embedded files, macros) is copied as nothing. XML that declares
entities is refused: Office writes none, and bombs are made of them.
"""

from __future__ import annotations

import io
import zipfile

from mirothinker_jax.tools.page_kind import Unreadable

# Of all XML parts together. Sheets are read piece by piece; of the others a tree of some 30 times the size is made.
MAX_BYTES = {"DOCX": 1 << 25, "PPTX": 1 << 25, "XLSX": 1 << 27}
MAX_MEMBERS = 10_000
_PIECE_BYTES = 1 << 16
_XML_ENDINGS = (".xml", ".rels", ".vml")
_TYPES, _TYPES_BYTES = "[Content_Types].xml", 1 << 20  # where the file says what it is
_DOCTYPES = tuple("<!DOCTYPE".encode(codec) for codec in ("utf-8", "utf-16-le", "utf-16-be"))
_KINDS = (
    ("DOCX", b"wordprocessingml.document.main+xml"),
    ("XLSX", b"spreadsheetml.sheet.main+xml"),
    ("XLSX", b"vnd.ms-excel.sheet.macroEnabled.main+xml"),
    ("PPTX", b"presentationml.presentation.main+xml"),
    ("PPTX", b"presentationml.slideshow.main+xml"),
    ("PPTX", b"vnd.ms-powerpoint.presentation.macroEnabled.main+xml"),
)


def copy_xml(body: bytes) -> tuple[str, bytes]:
    """DOCX, XLSX or PPTX, and an archive of its XML parts.

    Raises:
      Unreadable: it is none of them, damaged, or too large when unpacked; the message says which.
    """
    try:
        return _copy(zipfile.ZipFile(io.BytesIO(body)))
    except (Unreadable, MemoryError):
        raise
    except Exception as error:  # zipfile raises what it happens to stumble over
        raise Unreadable(f"a damaged ZIP archive or Office file ({error})") from error


def _copy(source: zipfile.ZipFile) -> tuple[str, bytes]:
    members = source.infolist()
    names = {member.filename: member for member in members}
    if _TYPES not in names:
        raise Unreadable(_other_kind(set(names)))
    if len(members) > MAX_MEMBERS:
        raise Unreadable(f"an Office file of more than {MAX_MEMBERS:,} parts")
    types = _read(source, names[_TYPES], _TYPES_BYTES)
    kind = next((kind for kind, mark in _KINDS if mark in types), "")
    if not kind:
        raise Unreadable(
            "an Office file that is no document, sheet or presentation (a template, a macro, XLSB)"
        )
    room, target = MAX_BYTES[kind], io.BytesIO()
    if sum(member.file_size for name, member in names.items() if name.endswith(_XML_ENDINGS)) > room:
        raise Unreadable(_too_large(room))
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as copy:
        for name, member in names.items():
            content = _read(source, member, room) if name.endswith(_XML_ENDINGS) else b""
            room -= len(content)
            if any(mark in content for mark in _DOCTYPES):
                raise Unreadable("an Office file whose XML declares entities")
            copy.writestr(name, content)
    return kind, target.getvalue()


def _read(source: zipfile.ZipFile, member: zipfile.ZipInfo, room: int) -> bytes:
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise Unreadable("an Office file with a compression that Office does not use")
    pieces, size = [], 0
    with source.open(member) as stream:
        while piece := stream.read(_PIECE_BYTES):
            size += len(piece)
            if size > room:
                raise Unreadable(_too_large(room))
            pieces.append(piece)
    return b"".join(pieces)


def _too_large(room: int) -> str:
    return f"an Office file that unpacks to more than {room / (1 << 20):.3g} MiB"


def _other_kind(names: set[str]) -> str:
    if "META-INF/container.xml" in names:
        return "an EPUB book"
    return "an OpenDocument file" if "META-INF/manifest.xml" in names else "a ZIP archive"
