"""All calls of an evaluation over its time: how many waited, ran, and ran to fail, as an SVG in the page's colours.

Where nothing was called for two minutes, as between two starts, the rest of the pause is left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from mirothinker_jax.trajectory.timeline import CallTime

BINS = 240
LONGEST_PAUSE_S = 120.0
KINDS = ("running", "failing", "waiting")  # from the bottom up


class CallsChart(NamedTuple):
    """`svg` is markup, drawn from numbers alone. `most`: calls in flight at once, the mean of the busiest bin."""

    svg: str
    seconds: float
    most: float


def calls_chart(calls: Iterable[CallTime]) -> CallsChart | None:
    """None where no call says when it was."""
    timed = sorted(
        (c.asked, c.asked + (c.waiting_s or 0.0), c.ended, "failing" if c.failure else "running")
        for c in calls
        if c.asked is not None and c.ended is not None
    )
    if not timed:
        return None
    spans, left_out, busy_until = list[tuple[float, float, str]](), 0.0, timed[0][0]
    for asked, began, ended, kind in timed:
        left_out += max(0.0, asked - busy_until - LONGEST_PAUSE_S)
        busy_until = max(busy_until, ended)
        start = timed[0][0] + left_out
        spans += [(asked - start, began - start, "waiting"), (began - start, ended - start, kind)]
    seconds = max(end for _, end, _ in spans) or 1e-3
    counts = {kind: [0.0] * BINS for kind in KINDS}
    for begin, end, kind in spans:
        first, last = begin / seconds * BINS, end / seconds * BINS
        for place in range(int(first), min(BINS, int(last) + 1)):
            counts[kind][place] += max(0.0, min(last, place + 1) - max(first, place))
    most = max(map(sum, zip(*counts.values(), strict=True)))
    return CallsChart(_draw(counts, most or 1.0), seconds, most)


def _draw(counts: dict[str, list[float]], most: float) -> str:
    below, paths = [0.0] * BINS, []
    for kind, values in counts.items():
        bars = [
            f"M{place} {100 - 100 * (low + n) / most:.2f}h1V{100 - 100 * low / most:.2f}h-1z"
            for place, (low, n) in enumerate(zip(below, values, strict=True))
            if n > 0
        ]
        below = [low + n for low, n in zip(below, values, strict=True)]
        paths.append(f'<path class="{kind}" d="{"".join(bars)}"/>')
    return (
        f'<svg viewBox="0 0 {BINS} 100" preserveAspectRatio="none" aria-hidden="true">{"".join(paths)}</svg>'
    )
