"""Text of pages, models and servers on a terminal: without what it would obey, so nobody moves the cursor or sets a
title.
"""

from __future__ import annotations


def plain(text: str, chars: int) -> str:
    """`text` on one line of at most `chars` characters, without what a terminal would not print.

    >>> plain("a\\x1b[31m  b\\n", 9), plain("abcdef", 4)
    ('a[31m b', 'abc…')
    """
    words = " ".join(printable(text[: 8 * chars]).split())  # of a long text only the beginning can be shown
    return words if len(words) <= chars else f"{words[: chars - 1]}…"


def printable(text: str) -> str:
    """`text` without what a terminal would not print; its white space stays."""
    return "".join(c for c in text if c.isprintable() or c in " \n\t\u3000")
