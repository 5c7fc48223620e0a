"""Bytes of a page to text, as browsers do it (WHATWG Encoding Standard and HTML's prescan).

A byte order mark decides, then the Content-Type header, then what the page declares, then whether the bytes are
UTF-8; else windows-1252. Labels mean what the standard says and not what Python's codecs say: iso-8859-1 is
windows-1252, gb2312 is gb18030. Bytes that are none of the encoding become U+FFFD. Left out: guessing an
encoding from the letters, and the few labels that browsers refuse to decode, which are taken as undeclared.
"""

from __future__ import annotations

import codecs
import re

import webencodings

_BOMS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
_PRESCAN_BYTES = 1 << 13  # the standard's prescan ends at 1,024; browsers read on
_COMMENT = re.compile(rb"<!--.*?-->", re.DOTALL)
_LABEL = rb"""charset\s*+=\s*+["']?\s*+([\w.:+-]+)"""
_HEADER = re.compile(_LABEL.decode("ascii"), re.IGNORECASE | re.ASCII)
_DECLARED = re.compile(
    rb"<meta\b[^<>]*?\b" + _LABEL + rb"""|<\?xml\s[^<>]*?\bencoding\s*+=\s*+["']([\w.:+-]+)""", re.IGNORECASE
)
# Python's codec of less than the standard decodes under the name.
_SUPERSETS = {"gbk": "gb18030"}
# A page that declares itself in ASCII letters is in no UTF-16, and x-user-defined is for scripts (HTML's prescan).
_DECLARED_AS = {"utf-16-le": "utf-8", "utf-16-be": "utf-8", "x-user-defined": "cp1252"}


def decode_page(body: bytes, content_type: str) -> str:
    """The text of an HTTP response's body, which may have been cut anywhere, by its Content-Type header.

    >>> decode_page(b"<meta charset=gb2312>\\xc8\\xd5", "text/html")
    '<meta charset=gb2312>日'
    """
    for mark, codec in _BOMS:
        if body.startswith(mark):
            return body[len(mark) :].decode(codec, "replace")
    header = _HEADER.search(content_type)
    codec = (_codec(header[1]) if header else None) or _declared(body[:_PRESCAN_BYTES])
    if codec is None:
        codec = "utf-8" if _is_utf8(body) else "cp1252"
    return body.decode(codec, "replace")


def _declared(head: bytes) -> str | None:
    found = _DECLARED.search(_COMMENT.sub(b"", head))
    codec = _codec((found[1] or found[2]).decode("ascii")) if found else None
    return _DECLARED_AS.get(codec, codec) if codec else None


def _codec(label: str) -> str | None:
    """Python's codec for a label of the standard; None for an unknown one."""
    found = webencodings.lookup(label)
    if found is None or found.name == "replacement":
        return None
    return _SUPERSETS.get(found.name, found.codec_info.name)


def _is_utf8(body: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(body)  # the last character may be cut
    except UnicodeDecodeError:
        return False
    return True
