"""Which lines of a page answer a question: by shared words, and by shared runs of characters in scripts that write
words without spaces (Chinese, Japanese, Thai, …) or with endings (Korean). No model, no dictionary.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache

_LINK_TARGET = re.compile(r"\]\([^)]*\)")
# Letters and the vowel signs and accents that stand on them, which \w leaves out.
_WORD = re.compile(
    r"[\w\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0900-\u0963\u0966-\u0dff\u0e31-\u0e4e\u0eb1-\u0ece"
    r"\u102b-\u109f\u17b4-\u17d3]+"
)
_ASCII_WORD = re.compile(r"\w+", re.ASCII)
_HAN = "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_SYLLABLES = f"{_HAN}\u3041-\u30ff\u31f0-\u31ff\uac00-\ud7a3"  # a word has one to three of them
_LETTERS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer: words are longer
_RUN = re.compile(
    f"(?P<syllables>[{_SYLLABLES}]+)|(?P<letters>[{_LETTERS}]+)|(?P<word>[^{_SYLLABLES}{_LETTERS}]+)"
)
_UNSPACED = re.compile(f"[{_SYLLABLES}{_LETTERS}\\uff66-\\uff9f]")  # half-width kana are folded to the others
_HAN_CHAR = re.compile(f"[{_HAN}]")
# Words of a question that say nothing about which line answers it.
# fmt: off
_EMPTY_WORDS = frozenset((
    "a", "all", "an", "and", "any", "are", "at", "by", "find", "for", "from", "get", "give", "how", "in",
    "information", "is", "it", "its", "me", "of", "on", "or", "page", "please", "return", "tell", "that",
    "the", "this", "to", "was", "were", "what", "when", "where", "which", "who", "with",
    "什么", "什麼", "多少", "哪里", "如何", "怎么", "请问", "信息", "情報", "です", "ます", "する", "した",
))
# fmt: on
_EMPTY_CHARS = frozenset("的了是在有和与與之为為这這那个個一不其什么多少何")
_PREFIX_CHARS = 4  # words count as related when one begins with the other and has at least this length
_CACHED_CHARS = 200  # of a line; longer ones, and those of scripts without spaces, would fill the memory
_WANTED_CHARS = 2_000  # of a question; the time taken is its length times the page's at worst


def best_lines(lines: Sequence[str], wanted: str, count: int) -> list[str]:
    """The `count` lines that share most words with `wanted`, the best first; [] if none shares any.

    A word before the line's first colon counts twice: "north: …" answers "north" better than
    "name: North Bay". Lines with equally many whole words are ordered by related words (elevation,
    elevations; 高, 高度), then by their place on the page.
    """
    asked = set(asked_terms(wanted))
    by_prefix: dict[str, list[str]] = defaultdict(list)
    for word in asked:
        if len(word) >= _PREFIX_CHARS:
            by_prefix[word[:_PREFIX_CHARS]].append(word)
    characters = {c for word in asked for c in _HAN_CHAR.findall(word)} - _EMPTY_CHARS
    scored: list[tuple[int, int, int]] = []
    for place, line in enumerate(lines):
        kept = len(line) <= _CACHED_CHARS and line.isascii()
        words, key = (_cached_terms if kept else _line_terms)(line)
        whole = len(asked & words) + len(asked & key)
        begun = {
            a
            for w in words
            for a in by_prefix.get(w[:_PREFIX_CHARS], ())
            if a.startswith(w) or w.startswith(a)
        }
        related = len(begun - words) + len(characters & words)
        if whole or related:
            scored.append((-whole, -related, place))
    return [lines[place] for _, _, place in sorted(scored)[:count]]


def _line_terms(line: str) -> tuple[frozenset[str], frozenset[str]]:
    """The terms of a line, and those before its first colon."""
    text = _folded(_LINK_TARGET.sub("]", line))
    key, colon, _ = text.partition(":")
    return frozenset(_terms(text)), frozenset(_terms(key) if colon else ())


_cached_terms = lru_cache(maxsize=8192)(_line_terms)  # pages are read again, and share lines; 36 MB at worst


def asked_terms(wanted: str) -> list[str]:
    """What to look for: the words of a question that say something, and stretches of text without spaces, folded; each
    once, in order.

    >>> asked_terms("Where is the Tower? 東京都"), asked_terms("the who")
    (['tower', '東京', '京都'], ['the', 'who'])
    """
    terms = dict.fromkeys(_asked(_folded(wanted[:_WANTED_CHARS])))
    return [term for term in terms if term not in _EMPTY_WORDS] or list(terms)


def unspaced_terms(text: str) -> Iterator[str]:
    """All stretches of a text's scripts without spaces that `asked_terms` could give, folded, in order.

    >>> list(unspaced_terms("in 東京都."))
    ['東', '京', '都', '東京', '京都']
    """
    if text.isascii() or not _UNSPACED.search(text):
        return
    for run, longest in _runs(_folded(text)):
        for length in range(1, longest + 1):
            yield from (run[i : i + length] for i in range(len(run) - length + 1))


def _folded(text: str) -> str:
    return text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()


def _runs(text: str) -> Iterator[tuple[str, int]]:
    """The words of a text and 0; runs of characters without spaces between words, and how many make a term."""
    if text.isascii():  # most lines, several times as fast
        yield from ((word, 0) for word in _ASCII_WORD.findall(text))
        return
    for word in _WORD.findall(text):
        for run in _RUN.finditer(word):
            yield run[0], 2 if run["syllables"] else 3 if run["letters"] else 0


def _asked(text: str) -> Iterator[str]:
    """Words, and of a run all its stretches of the length of a term, or itself where it is shorter."""
    for run, length in _runs(text):
        length = min(length, len(run)) or len(run)
        yield from (run[i : i + length] for i in range(len(run) - length + 1))


def _terms(text: str) -> Iterator[str]:
    """All that could be asked for and be in the text: words, and the stretches of runs up to a term's length."""
    for run, longest in _runs(text):
        for length in range(1, longest + 1):
            yield from (run[i : i + length] for i in range(len(run) - length + 1))
        if not longest:
            yield run
