"""Calls in the MCP wire format (tools/spec.py renders it), found in an assistant turn in one pass.

White space between tags is free. Arguments end where their JSON does, so they may hold any tag; where the JSON is
broken they end at the next closing tags. Two rules differ from the released scaffold: calls in thoughts are not
made, and a thought that is never closed is all thought. A turn with call tags that make no call is not a turn
without calls: the model must be told.

Every text is read in linear time: heads and ends of calls are found once each, and no stretch of JSON is decoded more
than twice (the quotes of a call inside a string end that string, so a decoder cannot run over many heads). Nothing
raises.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mirothinker_jax.agent.wire.lenient_json import UnlocatedText, decode_object, read_object
from mirothinker_jax.tools.spec import CALL_TAGS, ToolCall

_MARK = re.compile(
    r"(?P<head><use_mcp_tool>\s*+<server_name>(?P<server>[^<]*+)</server_name>\s*+"
    r"<tool_name>(?P<tool>[^<]*+)</tool_name>\s*+<arguments>)"
    r"|(?P<end></arguments>\s*+</use_mcp_tool>)|(?P<think><think>)|(?P<said></think>)"
)
_SPACE = re.compile(r"\s*+")
_END = re.compile(r"\s*+</arguments>\s*+</use_mcp_tool>")


@dataclass(frozen=True)
class Malformed:
    """Call tags that make no call; `reason` is a line for the model to read."""

    reason: str


@dataclass(frozen=True)
class _Part:
    """A stretch of a turn outside its thoughts: a call, or words."""

    text: str
    call: ToolCall | Malformed | None = None


@dataclass(frozen=True)
class ParsedTurn:
    """What a turn says outside its thoughts: its calls, in order, and all else."""

    calls: tuple[ToolCall | Malformed, ...]
    words: str


def parse_turn(text: str) -> ParsedTurn:
    """The calls and the words of an assistant turn. Stray tags are Malformed only where there is no call.

    >>> parse_turn("<think>a or b?</think>It is b.")
    ParsedTurn(calls=(), words='It is b.')
    """
    parts, unclosed = _parts(text)
    calls = tuple(part.call for part in parts if part.call is not None)
    words = "".join(part.text for part in parts if part.call is None)
    if not calls and any(tag in words for tag in CALL_TAGS):
        calls = (Malformed("malformed call: the tags do not form a whole call"),)
    elif not calls and any(tag in unclosed for tag in CALL_TAGS):
        reason = "malformed call: it stands in a thought; close the thought with </think> first"
        calls = (Malformed(reason),)
    return ParsedTurn(calls, words)


def _parts(text: str) -> tuple[list[_Part], str]:
    """What stands outside the thoughts, in order; and a thought that begins the turn and never ends.

    All before a </think> that nothing opened is a thought too: chat templates may open it in the prompt.
    """
    text = UnlocatedText(text)
    marks = list(_MARK.finditer(text))
    last_said = max((mark.start() for mark in marks if mark["said"]), default=-1)
    parts: list[_Part] = []
    place, thinking = 0, False  # where the current words, or the thought, began
    first_word = _skip_space(text, 0)
    for number, mark in enumerate(marks):
        if mark.start() < place:  # inside a call
            continue
        if mark["said"]:
            if not thinking:
                parts.clear()
            place, thinking = mark.end(), False
        elif thinking or mark["end"]:
            continue
        elif mark["think"]:
            if mark.start() < last_said:
                parts.append(_Part(text[place : mark.start()]))
                place, thinking = mark.end(), True
            elif mark.start() == first_word:
                return parts, text[first_word:]
            continue
        elif whole := _whole_call(text, marks, number):
            call, end = whole
            parts += [_Part(text[place : mark.start()]), _Part(text[mark.start() : end], call)]
            place = end
        else:
            continue
        first_word = _skip_space(text, place)
    return [*parts, _Part(text[place:])], ""


def _skip_space(text: str, place: int) -> int:
    match = _SPACE.match(text, place)
    assert match  # it matches nothing, too
    return match.end()


def _whole_call(
    text: str, marks: list[re.Match[str]], number: int
) -> tuple[ToolCall | Malformed, int] | None:
    """The call whose head is `marks[number]`, and where it ends; None where it is cut short."""
    head = marks[number]
    server, tool = head["server"].strip(), head["tool"].strip()
    exact = decode_object(text, head.end())
    if exact and (end := _END.match(text, exact[1])):
        return ToolCall(server, tool, exact[0]), end.end()
    later = (marks[i] for i in range(number + 1, len(marks)))
    mark = next((m for m in later if m["head"] or m["end"]), None)
    if mark is None or mark["head"]:  # another call begins first
        return None
    arguments = read_object(text[head.end() : mark.start()])
    if arguments is None:
        reason = f"malformed call: the arguments of {tool or 'the call'} are not a JSON object"
        return Malformed(reason), mark.end()
    return ToolCall(server, tool, arguments), mark.end()
