"""The leak guard for text that nobody has taken apart: what a foreign tool answers.

An address of benchmark data (leak_guard.py) takes with it the paragraph that it stands in; in JSON, the object, as a
search hit is one. A page that only mentions such an address so loses a paragraph. Not found: a page of a hub that does
not say where it is from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from mirothinker_jax.tools.leak_guard import URL_CHARS, is_leak

LEFT_OUT = "[left out: an address of benchmark data, and what stands beside it]"
_BETWEEN_PARAGRAPHS = re.compile(r"(\n\s*\n)")


def mentions_leak(text: str, refuse: Sequence[str] = ()) -> bool:
    """Whether an address of benchmark data is in the text. One longer than URL_CHARS / 2 may not be seen.

    `refuse` as in `is_leak`; its words count in addresses alone, as a text may well speak of a benchmark.
    """
    if any(is_leak(text[at : at + URL_CHARS]) for at in range(0, max(1, len(text)), URL_CHARS // 2)):
        return True
    addresses = (word[:URL_CHARS] for word in text.split() if "/" in word and "." in word) if refuse else ()
    return any(is_leak(address, refuse) for address in addresses)


def hide_leaks(text: str, refuse: Sequence[str] = ()) -> str:
    """The text without addresses of benchmark data and what stands beside them; unchanged where there are none.
    `refuse` as in `mentions_leak`.

    >>> hide_leaks("a\\n\\nsee https://hf.co/datasets/x/y for answers\\n\\nb")
    'a\\n\\n[left out: an address of benchmark data, and what stands beside it]\\n\\nb'
    """
    if text.lstrip()[:1] in ("{", "["):
        try:
            value = json.loads(text)
            kept = _hide(value, refuse)
            return text if kept == value else json.dumps(kept, ensure_ascii=False)
        except (ValueError, RecursionError):
            pass
    return _hide_paragraphs(text, refuse)


def _hide_paragraphs(text: str, refuse: Sequence[str]) -> str:
    if not mentions_leak(text, refuse):
        return text
    parts = _BETWEEN_PARAGRAPHS.split(text)
    return "".join(LEFT_OUT if mentions_leak(part, refuse) else part for part in parts)


def _hide(value: Any, refuse: Sequence[str]) -> Any:
    if isinstance(value, str):
        return _hide_paragraphs(value, refuse)
    if isinstance(value, list):
        return [_hide(item, refuse) for item in value]
    if not isinstance(value, dict):
        return value
    texts = [text for text in (*value, *value.values()) if isinstance(text, str)]
    if any(not re.search(r"\s", text) and mentions_leak(text, refuse) for text in texts):
        return LEFT_OUT
    return {name: _hide(item, refuse) for name, item in value.items()}
