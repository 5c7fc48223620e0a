"""Which server a session goes to: always the same one while it is there, without a table of sessions.

Every session ranks the servers by a hash of both (rendezvous hashing). Where its first server is gone, only its own
sessions move, each to its second one; when the server is back they return.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def ranked(session: str, urls: Sequence[str]) -> list[str]:
    """The servers' addresses in the order in which the session prefers them.

    >>> ranked("episode 7", ["http://a", "http://b"]) == ranked("episode 7", ["http://b", "http://a"])
    True
    """
    return sorted(urls, key=lambda url: hashlib.blake2b(f"{session}\0{url}".encode(), digest_size=8).digest())
