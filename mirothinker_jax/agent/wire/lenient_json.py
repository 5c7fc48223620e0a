"""JSON as models write it: read exactly where it can be, repaired where it cannot, in linear time.

Three readings are tried, the most faithful first: JSON with raw newlines in its strings; the same with stray
backslashes (`"\\d+"`) taken as themselves; json_repair. The library's time is not linear (4,000 characters of `{a:`
take it four seconds), so the text it gets counts how often it is read, and ends a repair that goes over it again
and again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import json_repair

_DECODER = json.JSONDecoder(strict=False)
_OBJECT = re.compile(r"\s*+\{")
_BACKSLASH = re.compile(r'\\(["\\/bfnrt]|u[0-9a-fA-F]{4})?')
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
# A repair of real text reads each character two to four times.
_READS_PER_CHAR, _READS_AT_LEAST = 6, 2_000
_REPAIRED_CHARS = 1 << 16  # longer than any turn; what is longer is not repaired
_AFTER = " \t\r\n`;}"  # may follow an object: a code fence, a brace too many


def read_object(text: str) -> dict[str, Any] | None:
    """The JSON object that `text` holds; None where no reading finds one. Never raises.

    >>> read_object('{"q": "x",}'), read_object("[1]")
    ({'q': 'x'}, None)
    """
    for source in (text, _keep_backslashes(text)):
        candidate = source[max(source.find("{"), 0) :]
        if (found := decode_object(candidate, 0)) and not candidate[found[1] :].strip(_AFTER):
            return found[0]
    if isinstance(quoted := _decode(text), str):  # an object written as a string
        return found[0] if (found := decode_object(quoted, 0)) else None
    if len(text) > _REPAIRED_CHARS:
        return None
    try:
        value = json_repair.loads(_CountedText(text), skip_json_loads=True)
        return _clean(value) if isinstance(value, dict) else None
    except (ValueError, RecursionError):  # read too often, or nested too deep
        return None


def decode_object(text: str, start: int) -> tuple[dict[str, Any], int] | None:
    """The JSON object that begins at `start`, white space aside, and where it ends; None where there is none."""
    begin = _OBJECT.match(text, start)
    if begin is None:
        return None
    try:
        value, end = _DECODER.raw_decode(text, begin.end() - 1)
        return _clean(value), end
    except (ValueError, RecursionError):
        return None


def _decode(text: str) -> object:
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None


def _keep_backslashes(text: str) -> str:
    def escape(match: re.Match[str]) -> str:
        if match[1]:
            return match[0]
        return "" if match.string.startswith("'", match.end()) else "\\\\"

    return _BACKSLASH.sub(escape, text)


def _clean(value: Any) -> Any:
    """Half a surrogate pair is no character: no tokenizer and no network takes it."""
    if isinstance(value, str):
        return _LONE_SURROGATE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {_clean(name): _clean(item) for name, item in value.items()}
    return [_clean(item) for item in value] if isinstance(value, list) else value


class UnlocatedText(str):
    """A text for many calls of decode_object: the decoder's errors count no lines, which would take the text's length
    for each of them."""

    def count(self, *args: Any) -> int:
        return 0

    def rfind(self, *args: Any) -> int:
        return -1


class _CountedText(str):
    """A text that raises ValueError when it has been read too often."""

    def __init__(self, text: str):
        self._left = _READS_AT_LEAST + _READS_PER_CHAR * len(text)

    def __getitem__(self, key: Any) -> str:
        found = super().__getitem__(key)
        self._count(len(found))
        return found

    def __iter__(self) -> Iterator[str]:
        for char in super().__iter__():
            self._count(1)
            yield char

    def _count(self, chars: int) -> None:
        self._left -= chars
        if self._left < 0:
            raise ValueError("the text is read over and over")
