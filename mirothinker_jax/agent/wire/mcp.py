"""Calls in the MCP wire format (tools/spec.py renders it), found in an assistant turn in one pass.

White space between tags is free. Arguments end where their JSON does, so they may hold any tag; where the JSON is
broken they end at the next closing tags.

No stretch of JSON is decoded more than twice: the quotes of a call inside a string end that string, so a decoder
cannot run over many heads.
"""

from __future__ import annotations

import re

from mirothinker_jax.agent.wire.lenient_json import JsonReader, decode_object
from mirothinker_jax.agent.wire.turn import (
    Grammar,
    Malformed,
    Marks,
    text_of_call,
)
from mirothinker_jax.tools.spec import CALL_TAGS, ToolCall

_MARK = re.compile(
    r"(?P<head><use_mcp_tool>\s*+<server_name>(?P<server>[^<]*+)</server_name>\s*+"
    r"<tool_name>(?P<tool>[^<]*+)</tool_name>\s*+<arguments>)"
    r"|(?P<end></arguments>\s*+</use_mcp_tool>)|(?P<think><think>)|(?P<said></think>)"
)
_END = re.compile(r"\s*+</arguments>\s*+</use_mcp_tool>")


def _whole_call(
    text: str, marks: Marks, number: int, reader: JsonReader
) -> tuple[ToolCall | Malformed, int] | None:
    head = marks[number]
    server, tool = head["server"].strip(), head["tool"].strip()
    exact = decode_object(text, head.end())
    if exact and (end := _END.match(text, exact[1])):
        return ToolCall(server, tool, exact[0]), end.end()
    if (cut := text_of_call(text, marks, number)) is None:
        return None
    arguments = reader.read_object(cut[0])
    if arguments is None:
        reason = f"malformed call: the arguments of {tool or 'the call'} are not a JSON object"
        return Malformed(reason), cut[1]
    return ToolCall(server, tool, arguments), cut[1]


GRAMMAR = Grammar(_MARK, _whole_call, CALL_TAGS)
