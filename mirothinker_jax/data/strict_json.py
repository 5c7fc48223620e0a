"""JSON to the letter of its standard: what Python's own parser lets through, and would change or lose, is refused.

Refused are NaN and Infinity, numbers that no double holds, a key that an object has twice, half a surrogate pair
(no UTF-8 exists for it), and in values that come from elsewhere, whatever JSON has no word for (dates, bytes).
"""

from __future__ import annotations

import json
import math
from collections.abc import Container, Mapping
from typing import Any, NoReturn


class DataError(ValueError):
    """Training data that cannot be used. One line: where, which field, what is wrong; the way out."""


def parse_json(text: str | bytes) -> Any:
    """The value that a JSON text says; bytes are UTF-8, with or without a byte order mark.

    Raises:
      ValueError: what is wrong with it.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8-sig")
    try:
        return json.loads(
            text, object_pairs_hook=_unique, parse_float=_finite, parse_constant=_refuse_constant
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None


def parse_field(text: str, field: str) -> Any:
    """`parse_json` of a field's text. Raises DataError, which names the field."""
    try:
        return parse_json(text)
    except ValueError as error:
        raise DataError(f"{field}: unreadable JSON ({error}); repair it") from None


def without_nulls(value: Any, field: str, keep: Container[str] = ()) -> Any:
    """A copy of a JSON value without the members that are null, at any depth.

    Arrow cannot say that an object lacks a key that other records have: it fills in null. It never fills in
    items of a list, so these stay, and so do members whose name is in `keep`.

    Raises:
      DataError: something in it that JSON cannot say.
    """
    if isinstance(value, str):
        return whole_text(value, field)
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise DataError(f"{field}: is {value}, which JSON has no number for; write null or leave it out")
        return value
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise DataError(f"{field}: has the key {key!r}; keys of an object must be strings")
            whole_text(key, field)
        return {
            key: without_nulls(item, f"{field}.{key}", keep)
            for key, item in value.items()
            if item is not None or key in keep
        }
    if isinstance(value, (list, tuple)):
        return [without_nulls(item, f"{field}[{i}]", keep) for i, item in enumerate(value)]
    raise DataError(f"{field}: is {kind(value)}, which JSON cannot say; write it as a string")


def whole_text(text: str, field: str) -> str:
    """`text`, as it is. Raises DataError where half a surrogate pair is in it."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            half = f"\\u{ord(text[error.start]):04x}"
            raise DataError(
                f"{field}: character {error.start} is {half}, half a surrogate pair; write both halves, or neither"
            ) from None
    return text


def kind(value: Any) -> str:
    """What a value is, in JSON's own words where it has one."""
    for types, name in (
        ((bool,), "a boolean"),
        ((int, float), "a number"),
        ((str,), "a string"),
        ((Mapping,), "an object"),
        ((list, tuple), "a list"),
        ((type(None),), "null"),
    ):
        if isinstance(value, types):
            return name
    return f"of Python's type {type(value).__name__}"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return members


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text} is too large")
    return number


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
