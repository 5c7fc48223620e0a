"""Lines: made-up relations beside those of the facts, for questions of more hops than there are facts to link by.

Each line is a ring through all pages of a neighbourhood, in an order that a hash decides. So no page is its end, and
every line leads somewhere from everywhere. Their names are two letters, "ba" … "zu".
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

NAMES = tuple(consonant + vowel for consonant in "bdfgklmnprstvwxz" for vowel in "aeiu")


def line_links(ids: Sequence[str], count: int, seed: int) -> dict[str, dict[str, str]]:
    """Of the pages `ids` of a neighbourhood: page → name of each of `count` lines → the page that it leads to.

    >>> sorted(line_links(["KTM", "PKR"], 1, 0).items())
    [('KTM', {'ba': 'PKR'}), ('PKR', {'ba': 'KTM'})]
    """
    links: dict[str, dict[str, str]] = {page: {} for page in ids}
    for name in NAMES[:count]:
        order = sorted(ids, key=lambda page: hashlib.sha256(f"{seed}|line|{name}|{page}".encode()).digest())
        for page, following in zip(order, [*order[1:], *order[:1]], strict=True):
            links[page][name] = following
    return links
