"""Answers graded by the one number in them, whatever words, currency or unit stand beside it.

Exact: 3.14 is not 3.14159, and nothing is rounded. A percent sign counts as a unit does, so 17% is 17 and not 0.17.
Left out: numbers in words, Roman numerals, digits of other scripts, and magnitudes (17 thousand is 17).
"""

from __future__ import annotations

import re
from fractions import Fraction

from mirothinker_jax.tasks.rules import plain

# A hyphen after a letter, a digit or a bracket is no sign (COVID-19, 5-8). A digit after a letter is part of a name
# (A380), and of 1.2.3 nothing is a number.
_NUMBER = re.compile(
    r"(?<![\w.])(?P<sign>(?<![)\]])[+-] ?)?(?P<digits>\d+(?:\.\d*)?|\.\d+)(?!\.?\d)"
    r"(?:e(?P<e>[+-]?\d{1,3})(?!\w)|\s*(?:[x×*·]|\\times|\\cdot)\s*10\^\(?(?P<power>[+-]?\d{1,3})\)?)?"
    r"(?:/(?P<divisor>\d+)(?![\d/]))?",
    re.ASCII,
)
_DIGITS = 1000  # of a number, at most: more than any answer has, few enough to compare at once


def only_number(text: str) -> Fraction | None:
    """The number in `text`; None where there is none, or several that differ.

    >>> only_number("about $1,234.50 in all"), only_number("5-8"), only_number(r"x = \\\\frac{1}{2}")
    (Fraction(2469, 2), None, Fraction(1, 2))
    """
    found = set()
    for match in _NUMBER.finditer(plain(text)):
        if len(match[0]) > _DIGITS or (match["divisor"] and not int(match["divisor"])):
            return None
        number = Fraction(match["digits"]) * Fraction(10) ** int(match["e"] or match["power"] or 0)
        number /= int(match["divisor"] or 1)
        found.add(-number if (match["sign"] or "").startswith("-") else number)
    return found.pop() if len(found) == 1 else None


def is_correct_number(expected: str, answer: str | None) -> bool:
    """Whether both hold one number, the same.

    >>> is_correct_number("4390", "4,390 m"), is_correct_number("17", "17 or 18"), is_correct_number("-8", "8")
    (True, False, False)
    """
    given = None if answer is None else only_number(answer)
    return given is not None and given == only_number(expected)
