"""What a training record looks like, and what is wrong with one that does not.

    {"messages": [{"role": "user", "content": "Where is KTM?"}, {"role": "assistant", "content": "…"}, …],
     "tools": [{"type": "function", "function": {"name": "find", "parameters": {…}}}]}

`system` beside the messages becomes the first of them. Other keys are metadata, which no model sees, or are
refused by name (data/keys.py).

Unusual: null members of a tool's schema are taken for Arrow's filling and dropped, but for `default` and
`const`, where null can be meant. Left out: whether a `parameters` is a right JSON Schema; it is rendered as
it is.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from mirothinker_jax.data.keys import METADATA, known_members
from mirothinker_jax.data.messages import canonical_message, parsed_list
from mirothinker_jax.data.strict_json import DataError, kind, parse_field, whole_text, without_nulls

Record = dict[str, Any]

_WAY_OUT = (
    'each record is {"messages": [{"role": …, "content": …}, …]}, where a role is user (not human), '
    "assistant (not gpt), system or tool"
)
_SCHEMA = '{"type": "function", "function": {"name": …, "parameters": {…}}}'


def canonical_record(record: Any, where: str, ignore: Container[str] = ()) -> Record:
    """A record as the rest of the project reads it: {messages, tools?: list} and its metadata.

    Args:
      where: which record it is, for errors: FILE:LINE.
      ignore: keys and paths to drop, as data.ignore has them.

    Raises:
      DataError: `FILE:LINE: field: what is wrong; way out`.
    """
    try:
        return _canonical_record(record, ignore)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    except RecursionError:
        raise DataError(f"{where}: record: nested too deeply; write it flatter") from None


def _canonical_record(record: Any, ignore: Container[str]) -> Record:
    if not isinstance(record, Mapping):
        raise DataError(f'record: is {kind(record)}; it must be an object {{"messages": […]}}')
    given = record.get("messages")
    if given is None:
        has = ", ".join(sorted(map(str, record))) or "nothing"
        raise DataError(f"messages: missing (the record has {has}); {_WAY_OUT}")
    members = known_members(record, "", "record", ignore)
    if isinstance(given, str) and not given.lstrip().startswith("["):
        raise DataError("messages: is a string; it must be a list of messages")
    messages = [
        canonical_message(message, f"messages[{i}]", ignore)
        for i, message in enumerate(parsed_list(given, "messages"))
    ]
    if not messages:
        raise DataError("messages: is empty; give at least one user and one assistant message")
    if not any(m["role"] == "assistant" and m.get("weight", 1) for m in messages):
        raise DataError("messages: no assistant message to train on; add one, or drop the record")
    if members.get("system"):
        messages = [_system(members["system"], messages[0]["role"]), *messages]
    canonical: Record = {"messages": messages}
    tools = [_canonical_tool(tool, f"tools[{i}]") for i, tool in enumerate(_tools(members.get("tools")))]
    if tools:
        canonical["tools"] = tools
    return canonical | {key: without_nulls(members[key], key) for key in METADATA if key in members}


def _system(text: Any, first_role: str) -> dict[str, Any]:
    if first_role == "system":
        raise DataError("system: beside messages that begin with a system message; keep one of the two")
    if not isinstance(text, str):
        raise DataError(f"system: is {kind(text)}; it must be a string")
    return {"role": "system", "content": whole_text(text, "system")}


def _tools(tools: Any) -> list[Any]:
    if isinstance(tools, Mapping):
        raise DataError(f"tools: is an object; it must be a list: [{_SCHEMA}, …]")
    return parsed_list(tools, "tools")


def _canonical_tool(tool: Any, field: str) -> dict[str, Any]:
    """A function's schema; it, its function or its parameters may be JSON text."""
    tool = _parsed(tool, field)
    function = _parsed(tool.get("function"), f"{field}.function") if isinstance(tool, Mapping) else None
    if not isinstance(tool, Mapping) or not isinstance(function, Mapping) or tool.get("type") != "function":
        what = "not a function's schema" if isinstance(tool, Mapping) else f"is {kind(tool)}"
        raise DataError(f"{field}: {what}; write {_SCHEMA}")
    name, description = function.get("name"), function.get("description")
    parameters = _parsed(function.get("parameters"), f"{field}.function.parameters")
    if not isinstance(name, str) or not name:
        raise DataError(f"{field}.function.name: is {kind(name)}; it must be the function's name")
    if not isinstance(description, str | None):
        raise DataError(f"{field}.function.description: is {kind(description)}; it must be a string")
    if not isinstance(parameters, Mapping | None):
        raise DataError(
            f"{field}.function.parameters: is {kind(parameters)}; it must be a JSON Schema object"
        )
    schema = {**tool, "function": {**function, "parameters": parameters}}
    return without_nulls(schema, field, keep=("default", "const"))


def _parsed(value: Any, field: str) -> Any:
    return parse_field(value, field) if isinstance(value, str) else value
