"""Finding the calls in an assistant turn (the wire format is in tools/spec.py).

White space between tags is free, JSON is repaired where it can be, arguments that are null are dropped by the
executor. A turn with call tags that make no call is not a turn without calls: the model must be told.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

import json_repair

from mirothinker_jax.tools.spec import CALL_TAGS, ToolCall

_CALL = re.compile(
    r"<use_mcp_tool>\s*<server_name>(.*?)</server_name>\s*<tool_name>(.*?)</tool_name>\s*"
    r"<arguments>(.*?)</arguments>\s*</use_mcp_tool>",
    re.DOTALL,
)


@dataclass(frozen=True)
class Malformed:
    """Call tags that make no call; `reason` is a line for the model to read."""

    reason: str


def parse_calls(text: str) -> list[ToolCall | Malformed]:
    """The turn's calls, in order. Thoughts are not searched: what is called is said after `</think>`.

    >>> parse_calls("<think>hm</think>no call here")
    []
    """
    said = text.rpartition("</think>")[2]
    found: list[ToolCall | Malformed] = []
    for server, tool, arguments in _CALL.findall(said):
        found.append(_call(server.strip(), tool.strip(), arguments.strip()))
    rest = _CALL.sub("", said)
    if any(tag in rest for tag in CALL_TAGS):
        found.append(Malformed("malformed call: the tags do not form a whole call"))
    return found


def _call(server: str, tool: str, arguments: str) -> ToolCall | Malformed:
    try:
        value = _json(arguments)
    except (ValueError, RecursionError):  # nested too deep, or a number of thousands of digits
        value = None
    if not isinstance(value, dict):
        return Malformed(f"malformed call: the arguments of {tool or 'the call'} are not a JSON object")
    return ToolCall(server, tool, value)


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return json_repair.loads(text)
