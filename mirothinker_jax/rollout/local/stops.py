"""Strings that end a turn, looked for in tokens as they come.

A character may be of several tokens, and a string of many. So the text of tokens that end within a character is held
back, and of the text before them only what a string may begin in is kept: the work does not grow with the turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]  # the text of ids; U+FFFD where a character is not whole


class StopStrings:
    """Of one turn, from its first token on."""

    def __init__(self, strings: Sequence[str], decode: Decode):
        self._strings, self._decode = strings, decode
        self._reach = max(map(len, strings)) - 1
        self._tail = ""  # the end of the text that is whole
        self._open: list[int] = []  # the tokens after it

    def find(self, tokens: Sequence[int]) -> tuple[int, str] | None:
        """(how many of the turn's next tokens there are up to the one that completes a string, the string); None where
        none is complete. Of strings that one token completes, the one that begins first."""
        before, known = self._tail, len(self._open)
        self._open += tokens
        text = before + self._decode(self._open)
        if not any(string in text for string in self._strings):
            if not text.endswith("\ufffd"):
                self._tail, self._open = text[len(text) - min(self._reach, len(text)) :], []
            return None
        for count in range(1, len(tokens) + 1):
            text = before + self._decode(self._open[: known + count])
            found = [(text.index(string), string) for string in self._strings if string in text]
            if found:
                return count, min(found)[1]
        raise AssertionError("what is in the text of all tokens is in that of some")
