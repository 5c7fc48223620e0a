"""The final answer: the last balanced \\boxed{…} of what a turn says.

A box that is never closed is none (the released scaffold takes it to the end of the text). A box that says nothing
is no answer either: an episode without an answer may be tried again, a wrong one may not.
"""

from __future__ import annotations

import re

from mirothinker_jax.tasks.rules import says_nothing

# Of \\boxed, as JSON writes it, the second backslash begins the box.
_BOX = re.compile(r"\\boxed\s*+\{")
_BRACE = re.compile(r"\\[{}\\]|[{}]")  # an escaped brace is text
_LONGEST_NOTHING = 1000  # characters; what is longer says something


def boxed_answer(text: str) -> str | None:
    """What the last balanced box holds; None where there is none, or where it says nothing.

    >>> boxed_answer(r"so \\boxed{a} or \\boxed {f{1}}")
    'f{1}'
    """
    inside = last_box(text)
    nothing = inside is None or (len(inside) <= _LONGEST_NOTHING and says_nothing(inside))
    return None if nothing else inside


def last_box(text: str) -> str | None:
    """The text in the last balanced box, whatever it says; None where there is none. Linear in the text: a box that is
    open where the next one begins is closed only if that one is, so no stretch is read for two boxes."""
    stop = len(text)
    for box in reversed(list(_BOX.finditer(text))):
        depth = 1
        for brace in _BRACE.finditer(text, box.end(), stop):
            mark = brace[0]
            if mark == "{":
                depth += 1
            elif mark == "}":
                depth -= 1
                if not depth:
                    return text[box.end() : brace.start()].strip()
        stop = box.start()
    return None
