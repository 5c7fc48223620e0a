"""How long calls take, per tool: percentiles from counts in fixed buckets, whatever the number of calls.

Bucket edges grow by 5%, so a percentile is off by 2.5% at most. Below 1 ms and above 2 hours it is the edge.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

_LEAST_S, _MOST_S = 1e-3, 7200.0
_GROWTH = math.log(1.05)
_LAST = math.ceil(math.log(_MOST_S / _LEAST_S) / _GROWTH)


@dataclass
class Latency:
    """Bucket number → calls; bucket n reaches from 1 ms · 1.05ⁿ to 1 ms · 1.05ⁿ⁺¹."""

    counts: Counter[int] = field(default_factory=Counter)

    def add(self, seconds: float) -> None:
        bucket = math.floor(math.log(max(seconds, _LEAST_S) / _LEAST_S) / _GROWTH)
        self.counts[min(bucket, _LAST)] += 1

    def percentile(self, share: float) -> float:
        """Seconds within which that share of the calls (0 < share ≤ 1) ended; 0 of none.

        >>> latency = Latency()
        >>> for seconds in (0.1, 0.1, 4.0): latency.add(seconds)
        >>> round(latency.percentile(0.5), 2), round(latency.percentile(0.9), 1)
        (0.1, 4.0)
        """
        wanted = math.ceil(share * self.counts.total())
        for bucket in sorted(self.counts):
            wanted -= self.counts[bucket]
            if wanted <= 0:
                return _LEAST_S * math.exp(_GROWTH * (bucket + 0.5))
        return 0.0

    def __sub__(self, before: Latency) -> Latency:
        """The calls since `before`, an earlier state of this one."""
        return Latency(self.counts - before.counts)
