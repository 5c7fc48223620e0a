"""Usual slips of a call, mended before it is checked, as the scaffold of the released checkpoints does.

A tool's name says which server it is on, so a wrong one is set right. Arguments go by the tool's JSON schema:
numbers, booleans, objects and lists that were written as strings are read; a whole float becomes an integer; other
names that models give an argument become its own; nulls are dropped. Nothing else is guessed: what still does not
fit is refused by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from mirothinker_jax.tools.spec import ToolCall, ToolSpec

_INTEGER = re.compile(r"[+-]?\d{1,18}(?:\.0+)?", re.ASCII)
_FLOAT = re.compile(
    r"[+-]?(?:\d{1,18}(?:\.\d{0,18})?|\.\d{1,18})(?:e[+-]?\d{1,3})?", re.ASCII | re.IGNORECASE
)
_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_JSON_CHARS = 1 << 16  # of an object written as a string


def find_spec(call: ToolCall, specs: Iterable[ToolSpec]) -> ToolSpec | None:
    """The tool that the call means: by server and name, or by its name or another name of it, where one tool has it."""
    named = [spec for spec in specs if call.tool == spec.name or call.tool in spec.aliases]
    exact = [spec for spec in named if (spec.server, spec.name) == (call.server, call.tool)]
    found = exact or named
    return found[0] if len(found) == 1 else None


def mend_arguments(arguments: Mapping[str, Any], spec: ToolSpec) -> dict[str, Any]:
    """The arguments by their right names, without nulls, each read as the tool's schema wants it where it can be."""
    given = {name: value for name, value in arguments.items() if value is not None}
    for wrong, right in spec.argument_aliases.items():
        if wrong in given and right not in given:
            given[right] = given.pop(wrong)
    if "sandbox_id" in spec.parameters.get("required", ()):
        given.setdefault("sandbox_id", "default")
    return _mend_object(given, spec.parameters)


def _mend_object(given: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    properties = schema.get("properties", {})
    others = schema.get("additionalProperties")
    others = others if isinstance(others, Mapping) else {}
    return {name: _mend(value, properties.get(name, others)) for name, value in given.items()}


def _mend(value: Any, schema: Any) -> Any:
    """`value` as one of the types that the schema allows; as it is where it has one, or cannot have."""
    types = _types(schema)
    if isinstance(value, str) and types and "string" not in types:
        value = _read(value.strip(), types)
    elif isinstance(value, float) and "integer" in types and "number" not in types and value.is_integer():
        value = int(value)
    elif types == {"boolean"} and type(value) is int and value in (0, 1):
        value = bool(value)
    if isinstance(value, dict) and "object" in types:
        return _mend_object(value, schema)
    if isinstance(value, list) and "array" in types and isinstance(schema.get("items"), Mapping):
        return [_mend(item, schema["items"]) for item in value]
    return value


def _read(text: str, types: set[str]) -> Any:
    if (
        "boolean" in types
        and text.lower() in _BOOLEANS
        and not (types & {"integer", "number"} and text.isdigit())
    ):
        return _BOOLEANS[text.lower()]
    if "integer" in types and _INTEGER.fullmatch(text):
        return int(text.partition(".")[0])
    if "number" in types and _FLOAT.fullmatch(text):
        return float(text)
    if types & {"object", "array"} and len(text) <= _JSON_CHARS:
        try:
            value = json.loads(text, strict=False)
        except (ValueError, RecursionError):
            return text
        if (isinstance(value, dict) and "object" in types) or (isinstance(value, list) and "array" in types):
            return value
    return text


def _types(schema: Any) -> set[str]:
    """The types that a schema names; none where it does not say, or says it by reference."""
    if not isinstance(schema, Mapping):
        return set()
    named = schema.get("type", ())
    found = {named} if isinstance(named, str) else set(named)
    for branch in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        found |= _types(branch)
    return found
