"""JSON as models write it: read exactly where it can be, repaired where it cannot, in linear time.

Readings are tried in order, the most faithful first: JSON with raw newlines in its strings; the same with stray
backslashes (`"\\d+"`) taken as themselves; without the usual faults (agent/wire/json_faults.py), and with up to two
braces more at its end; json_repair. The library guesses: of a program that it is not sure about it makes another one.
And its time is not linear (4,000 characters of `{a:` take it four seconds). So it gets what the others leave, as a text
that counts how often it is read, and all repairs of a turn have one limit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import json_repair

from mirothinker_jax.agent.wire.json_faults import keep_backslashes, without_faults

_DECODER = json.JSONDecoder(strict=False)
_OBJECT = re.compile(r"\s*+\{")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")
_AFTER = " \t\r\n`;}"  # may follow an object: a code fence, a brace too many
_MOST_BRACES = 2  # that a whole object may lack at its end
_DEEPEST = 100  # levels; schemas and serialisers recurse, too
# A read of json_repair takes one to four microseconds, and a text of some sentences is read three or four times.
_REPAIR_READS = 8_000
_REPAIR_START_READS = 50  # what a repair costs before it reads
_MOST_FAULTY = 100  # objects of a turn that are not JSON, and read all the same


class JsonReader:
    """Reads the JSON in one turn."""

    def __init__(self) -> None:
        self._reads_left = _REPAIR_READS
        self._faulty_left = _MOST_FAULTY

    def read_object(self, text: str) -> dict[str, Any] | None:
        """The JSON object that `text` holds; None where no reading finds one, or the turn's repairs cost too much.
        Never raises.

        >>> JsonReader().read_object('{"q": "x",}'), JsonReader().read_object("[1]")
        ({'q': 'x'}, None)
        """
        text = text.rstrip()
        if found := _only_object(text):
            return found[0]
        self._faulty_left -= 1
        if self._faulty_left < 0:
            return None
        if found := _only_object(keep_backslashes(text)):
            return found[0]
        if isinstance(quoted := _decode(text), str):  # an object written as a string
            return found[0] if (found := decode_object(quoted, 0)) else None
        mended = without_faults(text)
        for braces in range(_MOST_BRACES + 1):
            if found := _only_object(mended + "}" * braces):
                return found[0]
        return self._repair(text)

    def _repair(self, text: str) -> dict[str, Any] | None:
        self._reads_left -= _REPAIR_START_READS
        if self._reads_left < len(text):
            return None
        counted = _CountedText(text, self._reads_left)
        try:
            value = json_repair.loads(counted, skip_json_loads=True)
            return _clean(value) if isinstance(value, dict) else None
        except (ValueError, RecursionError):  # read too often, or nested too deep
            return None
        finally:
            self._reads_left = counted.reads_left


def decode_object(text: str, start: int) -> tuple[dict[str, Any], int] | None:
    """The JSON object that begins at `start`, white space aside, and where it ends; None where there is none."""
    begin = _OBJECT.match(text, start)
    if begin is None:
        return None
    try:
        value, end = _DECODER.raw_decode(text, begin.end() - 1)
        written = text[start:end]
        if _SURROGATE.search(written) or written.count("{") + written.count("[") > _DEEPEST:
            value = _clean(value)
        return value, end
    except (ValueError, RecursionError):
        return None


def _only_object(text: str) -> tuple[dict[str, Any]] | None:
    """The object that begins at the first brace, if nothing follows it that means something; of one item, as an empty
    object is one, too."""
    text = text[max(text.find("{"), 0) :]
    found = decode_object(text, 0)
    return (found[0],) if found and not text[found[1] :].strip(_AFTER) else None


def _decode(text: str) -> object:
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None


def _clean(value: Any, depth: int = 0) -> Any:
    """Half a surrogate pair is no character: no tokenizer and no network takes it. Raises ValueError for too deep a
    nesting."""
    if isinstance(value, str):
        return _LONE_SURROGATE.sub("\ufffd", value)
    if depth == _DEEPEST and isinstance(value, (dict, list)):
        raise ValueError(f"nested more than {_DEEPEST} deep")
    if isinstance(value, dict):
        return {_clean(name): _clean(item, depth + 1) for name, item in value.items()}
    return [_clean(item, depth + 1) for item in value] if isinstance(value, list) else value


class UnlocatedText(str):
    """A text for many calls of decode_object: the decoder's errors count no lines, which would take the text's length
    for each of them."""

    def count(self, *args: Any) -> int:
        return 0

    def rfind(self, *args: Any) -> int:
        return -1


class _CountedText(str):
    """A text that raises ValueError when more than `reads_left` characters of it have been read."""

    reads_left: int

    def __new__(cls, text: str, reads: int) -> _CountedText:
        counted = super().__new__(cls, text)
        counted.reads_left = reads
        return counted

    def __getitem__(self, key: Any) -> str:
        found = str.__getitem__(self, key)
        self._count(len(found))
        return found

    def __iter__(self) -> Iterator[str]:
        for char in super().__iter__():
            self._count(1)
            yield char

    def _count(self, chars: int) -> None:
        self.reads_left -= chars
        if self.reads_left < 0:
            raise ValueError("the text is read over and over")
