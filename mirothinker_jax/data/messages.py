"""The messages of a conversation: what they may hold, and what is wrong with one that is not so.

    {"role": "user", "content": "Where is KTM?"}
    {"role": "assistant", "content": "…", "reasoning_content": "…", "tool_calls": […], "weight": 0}

Roles are system, user, assistant and tool. What people's files hold comes in several shapes (text in parts, calls
as JSON text, the thought as `reasoning`, nulls that Arrow filled in); `canonical_message` makes them one.

Unusual: null members of a call's `arguments` are taken for Arrow's filling and dropped, at any depth. Arguments
that are JSON text, as OpenAI writes them, are kept to the letter, and there a null stays.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from typing import Any

from mirothinker_jax.data.keys import known_members
from mirothinker_jax.data.strict_json import DataError as DataError
from mirothinker_jax.data.strict_json import kind, parse_field, whole_text, without_nulls

ROLES = ("system", "user", "assistant", "tool")
_OTHER_ROLES = {  # what other formats call them
    **dict.fromkeys(("human",), "user"),
    **dict.fromkeys(("gpt", "model", "bot", "ai", "chatgpt"), "assistant"),
    **dict.fromkeys(("function", "observation", "ipython", "tool_response"), "tool"),
    "developer": "system",
}

Message = Mapping[str, Any]


def canonical_message(message: Any, field: str, ignore: Container[str] = ()) -> dict[str, Any]:
    """A message as the rest of the project reads it.

    {role, content: str | None, reasoning_content?: str, tool_calls?: […], weight?: 0 | 1}; content is None
    only beside calls or a thought, and each call is {"type": "function", "function": {"name", "arguments"}},
    its arguments an object, or JSON text of one.

    Raises:
      DataError: `field: what is wrong; way out`.
    """
    members = known_members(message, field, "messages", ignore)
    role = members.get("role")
    if role is None:
        raise DataError(f"{field}.role: missing; every message has a role and a content")
    if role not in ROLES:
        known = f"use one of {', '.join(ROLES)}"
        other = _OTHER_ROLES.get(role) if isinstance(role, str) else None
        raise DataError(f"{field}.role: unknown role {role!r}; {f'write {other!r}' if other else known}")
    content = _text(members.get("content"), f"{field}.content", ignore)
    thought = _thought(members, field)
    calls = [_canonical_call(*call, ignore) for call in _entries(members, field)]
    if role != "assistant" and (calls or thought):
        key, does = ("tool_calls", "calls tools") if calls else ("reasoning_content", "thinks")
        raise DataError(f"{field}.{key}: on a {role} message; only an assistant {does}")
    if content is None and not calls and not thought:
        empty = "is null" if "content" in message else "missing"
        raise DataError(f'{field}.content: {empty}; every message has a content: write it, or "" for none')
    canonical: dict[str, Any] = {"role": role, "content": content}
    if thought:
        canonical["reasoning_content"] = thought
    if calls:
        canonical["tool_calls"] = calls
    weight = members.get("weight")
    if weight not in (None, 0, 1):
        raise DataError(f"{field}.weight: is {weight!r}; use 1 (train on it) or 0 (context only)")
    if weight is not None and role == "assistant":
        canonical["weight"] = int(weight)
    elif weight:
        raise DataError(f"{field}.weight: is {weight!r} on a {role} message; only an assistant's are trained")
    return canonical


def tool_calls(message: Message, field: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(field, tool name, arguments) of each entry of an assistant message's `tool_calls`.

    Raises:
      DataError: an entry that is not an OpenAI function call.
    """
    for entry, where in _entries(message, field):
        yield where, *_name_and_arguments(_function(entry, where), where)


def parsed_list(value: Any, field: str) -> list[Any]:
    """A list, or JSON text of one (tables with columns of text have those); null and "" are an empty one.

    Raises:
      DataError: anything else.
    """
    if isinstance(value, str):
        value = parse_field(value, field) if value.strip() else None
    if value is not None and not isinstance(value, (list, tuple)):
        raise DataError(f"{field}: is {kind(value)}; it must be a list")
    return list(value or ())


def _entries(message: Message, field: str) -> list[tuple[Any, str]]:
    entries = parsed_list(message.get("tool_calls"), f"{field}.tool_calls")
    return [(entry, f"{field}.tool_calls[{i}]") for i, entry in enumerate(entries)]


def _function(entry: Any, where: str) -> Mapping[str, Any]:
    function = entry.get("function") if isinstance(entry, Mapping) else None
    if not isinstance(function, Mapping):
        raise DataError(f'{where}: not a function call; write {{"function": {{"name": …, "arguments": …}}}}')
    return function


def _name_and_arguments(function: Mapping[str, Any], where: str) -> tuple[str, dict[str, Any]]:
    name, arguments = function.get("name"), function.get("arguments")
    if not isinstance(name, str) or not name:
        raise DataError(f"{where}.function.name: is {kind(name)}; it must be the function's name")
    field = f"{where}.function.arguments"
    if arguments is None or (isinstance(arguments, str) and not arguments.strip()):
        arguments = {}
    elif isinstance(arguments, str):
        arguments = parse_field(arguments, field)
    if not isinstance(arguments, dict):
        raise DataError(f"{field}: is {kind(arguments)}; it must be a JSON object")
    return name, arguments


def _canonical_call(entry: Any, where: str, ignore: Container[str]) -> dict[str, Any]:
    function = _function(entry, where)
    call = known_members(entry, where, "messages.tool_calls", ignore)
    if call.get("type", "function") != "function":
        raise DataError(f"{where}.type: is {call['type']!r}; only a function can be called")
    function = known_members(function, f"{where}.function", "messages.tool_calls.function", ignore)
    name, parsed = _name_and_arguments(function, where)
    field = f"{where}.function.arguments"
    arguments, written = without_nulls(parsed, field), function.get("arguments")
    if isinstance(written, str) and written.strip():
        arguments = whole_text(written, field)
    name = whole_text(name, f"{where}.function.name")
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def _text(content: Any, field: str, ignore: Container[str]) -> str | None:
    """A string as it is; parts of type text, joined; None for null and for no parts at all."""
    if isinstance(content, str):
        return whole_text(content, field)
    if content is None:
        return None
    if not isinstance(content, (list, tuple)):
        raise DataError(f"{field}: is {kind(content)}; it must be a string, or a list of text parts")
    texts = []
    for i, item in enumerate(content):
        where = f"{field}[{i}]"
        type_ = item.get("type") if isinstance(item, Mapping) else None
        if type_ is not None and type_ != "text":
            raise DataError(f"{where}.type: is {type_!r}; {_part_way_out(type_)}")
        part = known_members(item, where, "messages.content", ignore)
        if type_ is None or not isinstance(part.get("text"), str):
            raise DataError(f'{where}: not a text part; write {{"type": "text", "text": …}}')
        texts.append(whole_text(part["text"], f"{where}.text"))
    return "".join(texts) if texts else None


def _part_way_out(type_: Any) -> str:
    ways_out = {
        "thinking": "write its text as reasoning_content of the message",
        "tool_use": "write it as tool_calls of the message",
        "tool_result": "write it as a message of the role tool",
    }
    return ways_out.get(str(type_), "only parts of type text are trained: take it out")


def _thought(members: Mapping[str, Any], field: str) -> str | None:
    """`reasoning_content`, which some servers call `reasoning`; None where there is no text in it."""
    given = {key: members[key] for key in ("reasoning_content", "reasoning") if key in members}
    for key, thought in given.items():
        if not isinstance(thought, str):
            raise DataError(f"{field}.{key}: is {kind(thought)}; it must be a string")
        whole_text(thought, f"{field}.{key}")
    said = {thought for thought in given.values() if thought}
    if len(said) > 1:
        raise DataError(f"{field}.reasoning: is another text than reasoning_content; keep one of the two")
    return said.pop() if said else None
