"""A turn is read in one pass: thoughts are taken off, and what is left is calls and words.

What a format adds (agent/wire/mcp.py, agent/wire/hermes.py) is its marks and how a call is read that begins at one.
Two rules differ from the released scaffold: calls in thoughts are not made, and a thought that is never closed is all
thought. A turn with call tags that make no call is not a turn without calls: the model must be told.

Every text is read in linear time, as far as `whole_call` takes time that is linear in the text from its head to the
next one. Nothing raises.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from mirothinker_jax.agent.wire.lenient_json import JsonReader, UnlocatedText
from mirothinker_jax.tools.spec import ToolCall

_SPACE = re.compile(r"\s*+")


@dataclass(frozen=True)
class Malformed:
    """Call tags that make no call; `reason` is a line for the model to read."""

    reason: str


@dataclass(frozen=True)
class ParsedTurn:
    """What a turn says outside its thoughts: its calls, in order, and all else."""

    calls: tuple[ToolCall | Malformed, ...]
    words: str


@dataclass(frozen=True)
class Stretch:
    """A piece of a turn as a reader sees it. `kind`: call, words, thought, or result (which the turn wrote itself)."""

    kind: str
    text: str  # without the tags around a thought or a result
    call: ToolCall | Malformed | None = None


@dataclass(frozen=True)
class _Part:
    """A stretch of a turn outside its thoughts: a call, or words."""

    start: int
    text: str
    call: ToolCall | Malformed | None = None


Marks = list[re.Match[str]]
# (text, all marks, the number of a head, the turn's reader of JSON) → the call that begins there, and where it ends;
# None where it is cut short.
WholeCall = Callable[[str, Marks, int, JsonReader], tuple[ToolCall | Malformed, int] | None]


@dataclass(frozen=True)
class Grammar:
    """What the marks of a format are.

    Attributes:
      mark: finds, each as a group, the `head` or `end` of a call; `think` and `said`, the tags of a thought; and where
        the format has them, `result` and `shown`, the tags of a tool's result, which a turn may quote or forge.
      whole_call: reads a call.
      tags: strings that a turn without calls must not hold.
    """

    mark: re.Pattern[str]
    whole_call: WholeCall
    tags: tuple[str, ...]


_CLOSES = {"think": "said", "result": "shown"}


def read_turn(text: str, grammar: Grammar) -> ParsedTurn:
    """The calls and the words of an assistant turn. Stray tags are Malformed only where there is no call."""
    parts, unclosed = _parts(text, grammar)
    calls = tuple(part.call for part in parts if part.call is not None)
    words = "".join(part.text for part in parts if part.call is None)
    if not calls and any(tag in words for tag in grammar.tags):
        calls = (Malformed("malformed call: the tags do not form a whole call"),)
    elif not calls and any(tag in unclosed for tag in grammar.tags):
        reason = "malformed call: it stands in a thought; close the thought with </think> first"
        calls = (Malformed(reason),)
    return ParsedTurn(calls, words)


def split_turn(text: str, grammar: Grammar) -> list[Stretch]:
    """The whole turn in its order, the thoughts too: they are what stands between the parts that `read_turn` reads."""
    parts, _ = _parts(text, grammar)
    found, place = list[Stretch](), 0
    for part in (*parts, _Part(len(text), "")):
        if place < part.start:
            found.append(_unsaid(text[place : part.start], grammar))
        if part.text:
            found.append(Stretch("words" if part.call is None else "call", part.text, part.call))
        place = part.start + len(part.text)
    return found


def _unsaid(text: str, grammar: Grammar) -> Stretch:
    """A thought or a result with its tags, of which either may be missing."""
    marks = list(grammar.mark.finditer(text))
    first = marks[0].lastgroup if marks and not text[: marks[0].start()].strip() else None
    begin = marks[0].end() if first in _CLOSES else 0
    last = marks[-1] if marks and marks[-1].lastgroup in _CLOSES.values() else None
    end = last.start() if last and last.end() == len(text) else len(text)
    return Stretch("result" if first == "result" else "thought", text[begin:end])


def _parts(text: str, grammar: Grammar) -> tuple[list[_Part], str]:
    """What stands outside the thoughts, in order; and a thought that begins the turn and never ends.

    All before a </think> that nothing opened is a thought too: chat templates may open it in the prompt.
    """
    text = UnlocatedText(text)
    marks = list(grammar.mark.finditer(text))
    last = {mark.lastgroup: mark.start() for mark in marks}
    parts, reader = list[_Part](), JsonReader()
    place, within = 0, None  # where the current words, or what is not said, began
    first_word = _skip_space(text, 0)
    for number, mark in enumerate(marks):
        kind = mark.lastgroup
        if mark.start() < place:  # inside a call
            continue
        if within:
            if kind != _CLOSES[within]:
                continue
            place, within = mark.end(), None
        elif kind == "said":
            parts.clear()
            place = mark.end()
        elif kind in _CLOSES:
            if mark.start() < last.get(_CLOSES[kind], -1):
                parts.append(_Part(place, text[place : mark.start()]))
                place, within = mark.end(), kind
            elif kind == "think" and mark.start() == first_word:
                return parts, text[first_word:]
            continue
        elif kind == "head" and (whole := grammar.whole_call(text, marks, number, reader)):
            call, end = whole
            parts.append(_Part(place, text[place : mark.start()]))
            parts.append(_Part(mark.start(), text[mark.start() : end], call))
            place = end
        else:
            continue
        first_word = _skip_space(text, place)
    return [*parts, _Part(place, text[place:])], ""


def _skip_space(text: str, place: int) -> int:
    match = _SPACE.match(text, place)
    assert match  # it matches nothing, too
    return match.end()


def text_of_call(text: str, marks: Marks, number: int) -> tuple[str, int] | None:
    """What stands between the head `marks[number]` and the next end, and where that ends; None where another call
    begins first."""
    later = (marks[i] for i in range(number + 1, len(marks)))
    mark = next((m for m in later if m.lastgroup in ("head", "end")), None)
    if mark is None or mark.lastgroup == "head":
        return None
    return text[marks[number].end() : mark.start()], mark.end()
