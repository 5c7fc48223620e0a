"""The final answer: the last balanced \\boxed{…} of what a turn says.

A box that is never closed is none (the released scaffold takes it to the end of the text). A box that says nothing
is no answer either: an episode without an answer may be tried again, a wrong one may not.
"""

from __future__ import annotations

import re

from mirothinker_jax.tasks.rules import says_nothing

# An escaped brace is text. Of \\boxed, as JSON writes it, the second backslash begins the box.
_BRACE = re.compile(r"(?P<box>\\boxed\s*+\{)|\\(?:[{}]|\\(?!boxed))|[{}]")


def boxed_answer(text: str) -> str | None:
    """What the last balanced box holds; None where there is none, or where it says nothing.

    >>> boxed_answer(r"so \\boxed{a} or \\boxed {f{1}}")
    'f{1}'
    """
    inside = last_box(text)
    return None if inside is None or says_nothing(inside) else inside


def last_box(text: str) -> str | None:
    """The text in the last balanced box, whatever it says; None where there is none. One pass."""
    opened: list[
        tuple[bool, int]
    ] = []  # for each open brace: does a box begin there, and where its content does
    last = (-1, -1)
    for brace in _BRACE.finditer(text):
        if brace["box"] or brace[0] == "{":
            opened.append((bool(brace["box"]), brace.end()))
        elif brace[0] == "}" and opened:
            is_box, start = opened.pop()
            if is_box and start > last[0]:
                last = (start, brace.start())
    return text[last[0] : last[1]].strip() if last[0] >= 0 else None
