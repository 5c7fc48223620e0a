"""What /metrics says: counters and gauges in Prometheus's text format, of which no more than this is needed."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Mapping

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PREFIX = "mirothinker_serve"


class Metrics:
    """Counters since the start."""

    def __init__(self) -> None:
        self._requests: collections.Counter[tuple[str, int]] = collections.Counter()
        self._seconds: dict[str, float] = collections.defaultdict(float)
        self._turns: collections.Counter[str] = collections.Counter()
        self._tokens: collections.Counter[str] = collections.Counter()

    def request(self, path: str, status: int, seconds: float) -> None:
        """A request was answered. `path` is a route's, so that there are few."""
        self._requests[path, status] += 1
        self._seconds[path] += seconds

    def turn(self, prompt_tokens: int, sampled_tokens: int, finish: str) -> None:
        """A turn ended."""
        self._turns[finish] += 1
        self._tokens["prompt"] += prompt_tokens
        self._tokens["sampled"] += sampled_tokens

    def text(self, gauges: Mapping[str, tuple[float, str]]) -> str:
        """All of it. `gauges`: name → (value, what it is)."""
        lines = [*self._counters()]
        for name, (value, meaning) in gauges.items():
            lines += [*_head(name, "gauge", meaning), f"{_PREFIX}_{name} {value:g}"]
        return "\n".join(lines) + "\n"

    def _counters(self) -> Iterator[str]:
        yield from _head("requests_total", "counter", "HTTP requests answered")
        for (path, status), count in sorted(self._requests.items()):
            yield f'{_PREFIX}_requests_total{{path="{path}",status="{status}"}} {count}'
        yield from _head(
            "request_seconds_total", "counter", "seconds from a request to the end of its answer"
        )
        for path, seconds in sorted(self._seconds.items()):
            yield f'{_PREFIX}_request_seconds_total{{path="{path}"}} {seconds:.6f}'
        yield from _head("turns_total", "counter", "turns by how they ended")
        for finish, count in sorted(self._turns.items()):
            yield f'{_PREFIX}_turns_total{{finish="{finish}"}} {count}'
        yield from _head("tokens_total", "counter", "tokens of contexts that were asked with, and of turns")
        for kind, count in sorted(self._tokens.items()):
            yield f'{_PREFIX}_tokens_total{{kind="{kind}"}} {count}'


def _head(name: str, kind: str, meaning: str) -> tuple[str, str]:
    return f"# HELP {_PREFIX}_{name} {meaning}", f"# TYPE {_PREFIX}_{name} {kind}"
