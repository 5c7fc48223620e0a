"""What the calls of an executor came to, for the log."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass, field

from mirothinker_jax.tools.latency import Latency
from mirothinker_jax.tools.spec import Failure, ToolResult

_PLAIN = ("calls", "cache_hits", "truncated", "retries", "refused", "seconds", "waiting_seconds")
_SHARES = (0.5, 0.9, 0.99)


@dataclass
class Counters:
    """Since the executor was made.

    Attributes:
      retries: attempts after a call's first.
      refused: calls that a circuit breaker answered.
      seconds: inside tools, over all calls, the waits between their attempts included.
      waiting_seconds: for a slot or for a tool's rate, before a call began.
      latency: of each tool of the executor by name, of the calls that reached it.
    """

    calls: int = 0
    cache_hits: int = 0
    truncated: int = 0
    retries: int = 0
    refused: int = 0
    seconds: float = 0.0
    waiting_seconds: float = 0.0
    failures: Counter[Failure] = field(default_factory=Counter)
    latency: dict[str, Latency] = field(default_factory=dict)

    def add(self, result: ToolResult) -> None:
        """Counts what a caller was given."""
        self.calls += 1
        self.cache_hits += result.cached
        self.truncated += result.truncated
        if result.failure is not None:
            self.failures[result.failure] += 1

    def add_time(self, tool: str, waiting: float, seconds: float) -> None:
        """Counts a call that reached its tool."""
        self.waiting_seconds += waiting
        self.seconds += seconds
        self.latency[tool].add(seconds)

    def snapshot(self) -> Counters:
        """A copy that stays as it is, to subtract later."""
        return copy.deepcopy(self)

    def __sub__(self, before: Counters) -> Counters:
        """What came since `before`, a snapshot."""
        plain = {name: getattr(self, name) - getattr(before, name) for name in _PLAIN}
        latency = {name: now - before.latency[name] for name, now in self.latency.items()}
        return Counters(**plain, failures=self.failures - before.failures, latency=latency)

    def figures(self) -> dict[str, float]:
        """For the log. The names are always the same; a percentile of no calls is 0."""
        plain = {name: float(getattr(self, name)) for name in _PLAIN}
        failures = {f"failures_{kind}": float(self.failures[kind]) for kind in Failure}
        percentiles = {
            f"{tool}_p{share * 100:g}_s": latency.percentile(share)
            for tool, latency in self.latency.items()
            for share in _SHARES
        }
        return {f"tools/{name}": value for name, value in (plain | failures | percentiles).items()}
