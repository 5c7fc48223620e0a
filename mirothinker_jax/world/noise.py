"""What goes wrong on a real web, decided by a hash: a run is the same whatever the order of its requests.

Failing, slow and misleading answers depend on the request's id, so that a retry under another id may
fare better. What stands before a slash in the id decides nothing: it tells apart episodes that are to meet the
same noise. A dead link depends on the entity alone: it stays dead, as links do.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from mirothinker_jax.config import WorldConfig

_SCALE = 2.0**-64


def share(*parts: object) -> float:
    """A number in [0, 1) that depends on `parts` alone, evenly spread."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") * _SCALE


@dataclass(frozen=True)
class Noise:
    """What goes wrong on the embedded web, decided by hashes of seed, request and page."""

    settings: WorldConfig
    seed: int

    def dead(self, entity_id: str) -> bool:
        """The entity's primary address answers 404; its mirror works."""
        return share(self.seed, "dead", entity_id) < self.settings.dead_link

    def failing(self, target: str, request_id: str) -> bool:
        """This request for `target` (a URL or a query) answers 503."""
        return share(self.seed, "failing", target, request_id) < self.settings.failing_call

    def slow(self, target: str, request_id: str) -> bool:
        """This request takes `settings.slow_s` longer."""
        return share(self.seed, "slow", target, request_id) < self.settings.slow_call

    def wrong_first(self, query: str, request_id: str) -> bool:
        """This search shows a similar but wrong page first."""
        return share(self.seed, "wrong", query, request_id) < self.settings.wrong_first_hit

    def pick(self, count: int, query: str, request_id: str) -> int:
        """Which of `count` similar pages a misleading search shows."""
        return int(share(self.seed, "pick", query, request_id) * count)
