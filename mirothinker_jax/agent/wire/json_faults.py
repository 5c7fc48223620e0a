"""The usual faults of JSON that models write, taken out in one pass, so that a strict decoder reads the rest exactly.

Strings in single quotes, Python's None, True and False, keys without quotes, a comma too many, backslashes that escape
nothing. Everything else stays, and the decoder refuses it: where a string ends is never guessed. json_repair, which
guesses, is for short texts (agent/wire/lenient_json.py).
"""

from __future__ import annotations

import re

_ESCAPE = re.compile(r'(\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))')
_TOKEN = re.compile(
    r'(?P<double>"(?:[^"\\]|\\.)*+(?:"|\\?\Z))'
    r"|'(?P<single>(?:[^'\\]|\\.)*+)(?:(?P<closed>')|\\?\Z)"
    r"|(?P<word>[^\W\d]\w*+)(?:\s*+(?P<colon>:))?"
    r"|,(?=\s*+[}\]])",
    re.DOTALL,
)
_MOST_TOKENS = 10_000  # what is longer stays as it is from there on, to be refused
_CONSTANTS = {"None": "null", "True": "true", "False": "false"}


def keep_backslashes(text: str) -> str:
    """`text` with a backslash that escapes nothing (`"\\d+"`) as itself; before a single quote it goes."""
    parts = _ESCAPE.split(text)  # what stands between the escapes, and they
    parts[::2] = [part.replace("\\'", "'").replace("\\", "\\\\") for part in parts[::2]]
    return "".join(parts)


def without_faults(text: str) -> str:
    """`text` as strict JSON would have it, but for brackets that are never closed.

    >>> without_faults("{'q': 'say \\"x\\"', n: None,}")
    '{"q": "say \\\\"x\\\\"", "n": null}'
    """
    return _TOKEN.sub(_strict, text, count=_MOST_TOKENS)


def _strict(token: re.Match[str]) -> str:
    kind = token.lastgroup
    if kind == "double":
        return keep_backslashes(token[0]) if "\\" in token[0] else token[0]
    if kind == "closed":
        text = token["single"]
        if "\\" in text or '"' in text:
            parts = _ESCAPE.split(keep_backslashes(text))
            parts[::2] = [part.replace('"', '\\"') for part in parts[::2]]
            text = "".join(parts)
        return f'"{text}"'
    if kind == "colon":
        return f'"{token["word"]}":'
    return _CONSTANTS.get(token[0], token[0]) if kind else ""  # a comma has no group
