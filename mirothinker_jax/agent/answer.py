"""The final answer: the last balanced \\boxed{…} of a turn."""

from __future__ import annotations

_OPEN = "\\boxed{"
_EMPTY = {"", "?", "??", "???", "...", "…"}


def boxed_answer(text: str) -> str | None:
    """What the last balanced box holds; None where there is none, or where it says nothing.

    >>> boxed_answer(r"so \\boxed{a} or \\boxed{f{1}}")
    'f{1}'
    """
    end = len(text)
    while (start := text.rfind(_OPEN, 0, end)) >= 0:
        depth = 0
        for i in range(start + len(_OPEN) - 1, len(text)):
            depth += {"{": 1, "}": -1}.get(text[i], 0)
            if depth == 0:
                inside = text[start + len(_OPEN) : i].strip()
                return None if inside in _EMPTY else inside
        end = start  # never closed: an earlier box may be
    return None
