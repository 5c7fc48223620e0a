"""Calls in Qwen's own format (tools/hermes.py renders it), found in an assistant turn in one pass.

    <tool_call>\\n{"name": "run", "arguments": {…}}\\n</tool_call>

A call ends where its JSON does, so its arguments may hold any tag; where the JSON is broken it ends at the next closing
tag. The last call of a turn may lack that tag, as the serving engines' parsers have it. Read as they are meant: the
arguments as a JSON string, as `parameters`, or beside the name; the call as `function`, as OpenAI's API writes it. A
result that the turn itself writes (`<tool_response>…</tool_response>`) is not said: nothing in it is called, or an
answer. There are no servers: the tool's name finds it (tools/mend.py).

No stretch of JSON is decoded more than twice: a head inside a string needs a quote of its own to begin another string,
and that ends the first.
"""

from __future__ import annotations

import re
from typing import Any

from mirothinker_jax.agent.wire.lenient_json import JsonReader, decode_object
from mirothinker_jax.agent.wire.turn import (
    Grammar,
    Malformed,
    Marks,
    text_of_call,
)
from mirothinker_jax.tools.hermes import CALL_TAGS
from mirothinker_jax.tools.spec import ToolCall

_MARK = re.compile(
    r"(?P<head><tool_call>)|(?P<end></tool_call>)|(?P<think><think>)|(?P<said></think>)"
    r"|(?P<result><tool_response>)|(?P<shown></tool_response>)"
)
_END = re.compile(r"\s*+(?:</tool_call>|(?:<\|(?:im_end|endoftext)\|>)?\Z)")
_ARGUMENTS = ("arguments", "parameters")


def _whole_call(
    text: str, marks: Marks, number: int, reader: JsonReader
) -> tuple[ToolCall | Malformed, int] | None:
    exact = decode_object(text, marks[number].end())
    if exact and (end := _END.match(text, exact[1])):
        return _call(exact[0], reader), end.end()
    if (cut := text_of_call(text, marks, number)) is None:
        return None
    written = reader.read_object(cut[0])
    if written is None:
        return Malformed("malformed call: it is not a JSON object"), cut[1]
    return _call(written, reader), cut[1]


def _call(written: dict[str, Any], reader: JsonReader) -> ToolCall | Malformed:
    if isinstance(written.get("function"), dict):
        written = written["function"]
    name = written.get("name", written.get("function"))
    if not isinstance(name, str) or not name.strip():
        return Malformed('malformed call: it has no name; write {"name": …, "arguments": {…}}')
    given = next((written[key] for key in _ARGUMENTS if key in written), None)
    if not any(key in written for key in _ARGUMENTS):
        given = {key: value for key, value in written.items() if key not in ("name", "function")}
    elif given is None or given == "":
        given = {}
    arguments = reader.read_object(given) if isinstance(given, str) else given
    if not isinstance(arguments, dict):
        return Malformed(f"malformed call: the arguments of {name.strip()} are not a JSON object")
    return ToolCall("", name.strip(), arguments)


GRAMMAR = Grammar(_MARK, _whole_call, CALL_TAGS)
