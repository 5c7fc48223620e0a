"""Qwen's own call format ("Hermes") as text: what the agent speaks and what training data is written in.

    <tool_call>\\n{"name": "run", "arguments": {…}}\\n</tool_call>

The words are the official chat templates', to the letter: a model was trained on them. There are no servers: a tool
goes by its name alone. A tag inside a call is written as JSON's \\u003c, so that it is the argument's and not the
call's. data/hermes.py makes tokens of this, agent/wire/hermes.py reads it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mirothinker_jax.tools.spec import ToolCall, ToolSpec

CALL_TAGS = ("<tool_call>", "</tool_call>")
RESULT_TAGS = ("<tool_response>", "</tool_response>")  # only we write these

_SECTION_BEGIN = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
SECTION_END = (  # alternating text and tag
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within ",
    "<tool_call>",
    "",
    "</tool_call>",
    " XML tags:\n",
    "<tool_call>",
    '\n{"name": <function-name>, "arguments": <args-json-object>}\n',
    "</tool_call>",
    "",
)
# The "<" of a tag that a parser of turns would take for its own.
_TAG = re.compile(r"<(?=/?(?:think|tool_call|tool_response)>)")


def tools_section(system: str | None, functions: Sequence[Mapping[str, Any]]) -> str | None:
    """`system` with the section that lists the functions' schemas; unchanged where there are none."""
    if not functions:
        return system
    listed = "".join(f"\n{json.dumps(dict(function), ensure_ascii=False)}" for function in functions)
    section = _SECTION_BEGIN + listed + "".join(SECTION_END)
    return section if system is None else f"{system}\n\n{section}"


def function_schema(spec: ToolSpec) -> dict[str, Any]:
    """The tool as `tools_section` lists it, and as `tools` of a training record holds it."""
    function = {"name": spec.name, "description": spec.description, "parameters": dict(spec.parameters)}
    return {"type": "function", "function": function}


def calls_text(calls: Iterable[tuple[str, str]], apart: bool = False) -> str:
    """A turn's calls, each (tool name, its arguments as JSON), as they follow its content; after a newline where they
    are set `apart`.

    >>> calls_text([("run", "{}")])
    '<tool_call>\\n{"name": "run", "arguments": {}}\\n</tool_call>'
    """
    text = ""
    for name, arguments in calls:
        call = f'{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments": {arguments}}}'
        text += "\n" if apart or text else ""
        call = _TAG.sub(r"\\u003c", call)
        text += f"<tool_call>\n{call}\n</tool_call>"
    return text


def render_calls(calls: Iterable[ToolCall]) -> str:
    """The same of calls that the agent makes; servers have no place in it."""
    return calls_text((c.tool, json.dumps(dict(c.arguments), ensure_ascii=False)) for c in calls)
