"""What a conversation on disk looks like, and what is wrong with one that does not.

    {"messages": [{"role": "user", "content": "Where is KTM?"}, {"role": "assistant", "content": "…"}, …]}

Roles are system, user, assistant and tool. An assistant message may hold OpenAI-style `tool_calls`, and
`"weight": 0` keeps it as context without training on it. Other keys of a message, such as `name` or
`tool_call_id`, are not rendered and ignored; keys whose text would be lost that way are refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

ROLES = ("system", "user", "assistant", "tool")
_LOST = {  # keys that other formats keep model text in
    "reasoning_content": "write it into content as <think>…</think>",
    "reasoning": "write it into content as <think>…</think>",
    "function_call": "write it as tool_calls",
}

Message = Mapping[str, Any]


class DataError(ValueError):
    """Training data that cannot be used. One line: where, which field, what is wrong; the way out."""


def check_record(record: Any, where: str) -> list[dict[str, Any]]:
    """The messages of one record, checked. `where` says in errors which record it is: FILE:LINE.

    Raises:
      DataError: `FILE:LINE: field: what is wrong; way out`.
    """
    try:
        return _check_record(record)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def tool_calls(message: Message, field: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(field, tool name, arguments) of each entry of an assistant message's `tool_calls`.

    Raises:
      DataError: an entry that is not an OpenAI function call.
    """
    entries = message.get("tool_calls") or []
    if not isinstance(entries, Sequence) or isinstance(entries, str):
        raise DataError(f"{field}.tool_calls: is {_kind(entries)}; it must be a list")
    for i, entry in enumerate(entries):
        where = f"{field}.tool_calls[{i}]"
        function = entry.get("function") if isinstance(entry, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise DataError(
                f'{where}: not a function call; write {{"function": {{"name": …, "arguments": …}}}}'
            )
        arguments = function.get("arguments", {})
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments)
            except ValueError as error:
                raise DataError(f"{where}.function.arguments: unreadable JSON ({error}); repair it") from None
        if not isinstance(arguments, dict):
            raise DataError(f"{where}.function.arguments: is {_kind(arguments)}; it must be a JSON object")
        yield where, function["name"], arguments


def _check_record(record: Any) -> list[dict[str, Any]]:
    if not isinstance(record, dict):
        raise DataError(f'record: is {_kind(record)}; it must be an object {{"messages": […]}}')
    if "messages" not in record:
        has = ", ".join(sorted(map(str, record))) or "nothing"
        raise DataError(f'messages: missing (the record has {has}); each record is {{"messages": […]}}')
    messages = record["messages"]
    if not isinstance(messages, list):
        raise DataError(f"messages: is {_kind(messages)}; it must be a list of messages")
    if not messages:
        raise DataError("messages: is empty; give at least one user and one assistant message")
    for i, message in enumerate(messages):
        _check_message(message, f"messages[{i}]")
    if not any(m["role"] == "assistant" and m.get("weight", 1) for m in messages):
        raise DataError("messages: no assistant message to train on; add one, or drop the record")
    return messages


def _check_message(message: Any, field: str) -> None:
    if not isinstance(message, dict):
        raise DataError(f"{field}: is {_kind(message)}; it must be an object with role and content")
    for key in ("role", "content"):
        if key not in message and not (key == "content" and message.get("tool_calls")):
            raise DataError(f"{field}.{key}: missing; every message has a role and a content")
    role, content = message["role"], message.get("content")
    if role not in ROLES:
        raise DataError(f"{field}.role: unknown role {role!r}; use one of {', '.join(ROLES)}")
    calls = list(tool_calls(message, field))
    if calls and role != "assistant":
        raise DataError(f"{field}.tool_calls: on a {role} message; only an assistant calls tools")
    if not isinstance(content, str) and not (calls and content is None):
        raise DataError(f"{field}.content: is {_kind(content)}; it must be a string (join text parts to one)")
    for key, way_out in _LOST.items():
        if message.get(key):
            raise DataError(f"{field}.{key}: this text would be lost; {way_out}")
    if message.get("weight", 1) not in (0, 1):
        raise DataError(f"{field}.weight: is {message['weight']!r}; use 1 (train on it) or 0 (context only)")


def _kind(value: Any) -> str:
    """What a value is, in JSON's own words."""
    for types, name in (((bool,), "a boolean"), ((int, float), "a number"), ((str,), "a string")):
        if isinstance(value, types):
            return name
    if value is None:
        return "null"
    return "an object" if isinstance(value, Mapping) else "a list"
