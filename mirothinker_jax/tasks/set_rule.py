"""Answers graded as sets: the same items, in any order, none missing and none too many.

Items stand on lines of their own or between semicolons, else between commas. So an item may hold a comma where
semicolons part them, and 1,000 is one number. An "and" is taken off before the last item where a comma precedes it.
"""

from __future__ import annotations

import re

from mirothinker_jax.tasks.rules import canonical

_BULLET = re.compile(r"^\s*(?:[-*•]|\d{1,3}[.)])\s+")
_THOUSANDS = re.compile(r"(?<=\d)(?:,|\{,\})(?=\d{3}(?!\d))")
_ENCLOSED = re.compile(r"\\?[\[{(]([^\[\](){}\\]*)\\?[\]})]")


def items(text: str) -> list[str]:
    """The items of an answer, as they are written.

    >>> items("{Oslo, Bergen, and Hamar}"), items("1,000, 2"), items("Lima, Peru; Quito")
    (['Oslo', 'Bergen', 'Hamar'], ['1,000', '2'], ['Lima, Peru', 'Quito'])
    """
    enclosed = _ENCLOSED.fullmatch(text.strip(" \t\r\n$"))
    text = enclosed[1] if enclosed else text
    if re.search(r"[;；\n]", text):
        found = re.split(r"[;；\n]", text)
    else:
        found = _THOUSANDS.sub("\0", text)
        found = [item.replace("\0", ",") for item in re.split("[,，、]", found)]
    found = [_BULLET.sub("", item).strip() for item in found]
    found = [re.sub(r"^(?:and|or)\s+", "", item) if i else item for i, item in enumerate(found)]
    return [item for item in found if item and canonical(item)]


def is_correct_set(expected: str, answer: str | None) -> bool:
    """Whether both hold the same items, equal as for `rules.is_correct`. An item said twice is one.

    >>> is_correct_set("Oslo; Bergen", "bergen, Oslo"), is_correct_set("Oslo; Bergen", "Oslo")
    (True, False)
    """
    wanted, given = (set(map(canonical, items(text or ""))) for text in (expected, answer))
    return wanted == given != set()
