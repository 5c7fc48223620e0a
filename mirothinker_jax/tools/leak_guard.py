"""Addresses that the agent may not see: hubs where benchmark questions lie beside their answers.

An evaluation adds what names its benchmark (config.tools.refuse): any address that holds such a word is refused, too.

Also found inside other addresses (archives, readers, translators that take an address as a parameter), under
percent-encoding, and in letters that browsers take for others. The sandbox needs no guard: it has no network. Not
found: an address inside another in base64 or a shortener's code (a shortener's redirect is), and copies of a
benchmark on a site that is no hub. Text that only mentions such an address is left as it is: it is no answer, and
following it is refused.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from urllib.parse import unquote

URL_CHARS = 8_192  # a longer address is not looked at, nor fetched
_ROUNDS = 8  # of percent-encoding around an address; what is wrapped deeper has something to hide

# A hub's host, and after it in the same path what says that it is data.
_HUB = re.compile(
    r"(?:huggingface\.co|(?<![\w-])hf\.co|hf-mirror\.com|modelscope\.(?:cn|ai))\.?(?::\d{0,9})?(?=[/\\])",
    re.IGNORECASE,
)
_DATA = re.compile(r"[/\\](?:datasets|spaces|studios)(?:[/\\&]|$)", re.IGNORECASE)
_PATH_END = re.compile(r"[?#\s]")
# Hosts of nothing else. The blobs are of models and datasets alike: their addresses do not say which.
_DATA_HOSTS = re.compile(
    r"\.hf\.space(?:[.:/\\?#\s]|$)|datasets-server\.huggingface\.co|"
    r"cdn-lfs[\w-]{0,40}\.(?:huggingface|hf)\.co|xethub\.hf\.co",
    re.IGNORECASE,
)
_TRANSLATED = re.compile(r"(?<![\w-])([\w-]{1,63})\.translate\.goog", re.IGNORECASE)


def is_leak(url: str, words: Sequence[str] = ()) -> bool:
    """True for a dataset or space of a model hub, and for an address that holds one of `words` in either case, however
    the address is wrapped, and for one too long to tell.

    >>> is_leak("https://huggingface.co/datasets/some/benchmark"), is_leak("https://huggingface.co/docs")
    (True, False)
    >>> is_leak("https://github.com/a/Some-Bench", ["some-bench"])
    True
    """
    if len(url) > URL_CHARS:
        return True
    for _ in range(_ROUNDS):
        sent = _as_sent(url)
        if _is_hub(sent) or any(word in sent.casefold() for word in words):
            return True
        decoded = unquote(url)
        if decoded == url:
            return False
        url = decoded
    return True


def _is_hub(url: str) -> bool:
    if _DATA_HOSTS.search(url):
        return True
    hubs = ((part, _HUB.search(part)) for part in _PATH_END.split(url))
    return any(hub is not None and _DATA.search(part, hub.end()) is not None for part, hub in hubs)


def _as_sent(url: str) -> str:
    """The address in the letters that a browser would send: full-width ones as plain, invisible ones not at all."""
    if not url.isascii():
        url = unicodedata.normalize("NFKC", url).replace("\u3002", ".")
    url = (
        "".join(c for c in url if unicodedata.category(c) not in ("Cc", "Cf"))
        if not url.isprintable()
        else url
    )
    # A translator's host: dots as dashes, dashes doubled.
    return _TRANSLATED.sub(
        lambda found: re.sub("--|-", lambda d: "-" if d[0] == "--" else ".", found[1]), url
    )
