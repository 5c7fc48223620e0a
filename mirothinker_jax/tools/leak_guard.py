"""Addresses that the agent may not see: hubs where benchmark questions lie beside their answers.

Also found inside other addresses (archives, readers, translators that take an address as a parameter)
and under percent-encoding. The sandbox needs no guard: it has no network.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

_HUBS = re.compile(
    r"(?:huggingface\.co|hf\.co|hf-mirror\.com)\.?(?::\d*)?[/\\](?:[^?#\s]*[/\\])?(?:datasets|spaces)(?:[/\\?#\s]|$)"
    r"|\.hf\.space(?:[:/\\?#\s]|$)"
    r"|datasets-server\.huggingface\.co",
    re.IGNORECASE,
)


def is_leak(url: str) -> bool:
    """True for a dataset or space of a model hub, however the address is wrapped.

    >>> is_leak("https://huggingface.co/datasets/some/benchmark"), is_leak("https://huggingface.co/docs")
    (True, False)
    """
    for _ in range(3):
        if _HUBS.search(url):
            return True
        decoded = unquote(url)
        if decoded == url:
            return False
        url = decoded
    return bool(_HUBS.search(url))
