"""Curves as inline SVG that follows the page: its colours (light, dark, print), its font, its width.

Unusual: matplotlib draws with stand-in colours, which are then replaced by CSS variables. Uses matplotlib's
figure objects and no pyplot, so nothing global is left open; the settings it needs are global while a figure
is drawn, so draw from one thread.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

# Stage → how its line looks; marker and dashes tell the lines apart without colour too.
_STYLES = {
    "sft": ("#01020a", "o", (0, ())),
    "dpo": ("#01020b", "s", (0, (5, 2))),
    "grpo": ("#01020c", "^", (0, ())),
}
_OTHER = ("#01020d", "D", (0, (2, 1.5)))
_INK, _FAINT = "#010203", "#010204"
_VARIABLES = {
    _INK: "var(--soft)",
    _FAINT: "var(--rule)",
    "#01020a": "var(--sft)",
    "#01020b": "var(--dpo)",
    "#01020c": "var(--grpo)",
    "#01020d": "var(--other)",
}
_SETTINGS: dict[Any, Any] = {"svg.fonttype": "none", "font.size": 10.0, "font.family": "DejaVu Sans"}
_MOST_POINTS = 400


@dataclass(frozen=True)
class Line:
    """One line of a plot; `low` and `high`, where given, are drawn as a band."""

    stage: str
    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


def groups_svg(lines: Sequence[Line], name: str, x_title: str) -> str:
    """Shares (0…1) against groups, evenly spaced whatever their values, so that 0, 1, 2, 4, 8 … all show."""
    groups = sorted({x for line in lines for x in line.x})
    place = {group: i for i, group in enumerate(groups)}
    figure, axes = new_axes(5.4, 3.3)
    for line in lines:
        colour, marker, dashes = style(line.stage)
        at = [place[x] for x in line.x]
        if line.low:
            axes.fill_between(at, line.low, line.high, color=colour, alpha=0.14, linewidth=0)
        axes.plot(at, line.y, color=colour, marker=marker, markersize=5, linestyle=dashes, label=line.label)
    axes.set_xticks(range(len(groups)), [f"{group:g}" for group in groups])
    axes.set_xlim(-0.25, max(len(groups) - 0.75, 0.25))
    axes.set_ylim(-0.02, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel(x_title)
    return inline_svg(figure, axes, name, legend=True)


def steps_svg(line: Line, name: str) -> str:
    """A figure against training steps; many points are thinned, and their running mean stands out."""
    x, y = subsample(line.x, line.y, _MOST_POINTS)
    figure, axes = new_axes(3.7, 2.4)
    colour = style(line.stage)[0]
    smooth = running_mean(y, len(y) // 20)
    crowded = len(y) >= 40
    axes.plot(x, y, color=colour, alpha=0.35 if crowded else 1.0, linewidth=0.9 if crowded else 1.6)
    if len(y) == 1:
        axes.plot(x, y, color=colour, marker="o")
    if crowded:
        axes.plot(x, smooth, color=colour, linewidth=1.9)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("step")
    return inline_svg(figure, axes, name, legend=False)


def style(stage: str) -> tuple[str, str, tuple[Any, ...]]:
    """Colour, marker and dashes of a stage's line; of any other name, those of what is no stage."""
    return _STYLES.get(stage, _OTHER)


def subsample(x: Sequence[float], y: Sequence[float], most: int) -> tuple[list[float], list[float]]:
    """At most `most` points, each the mean of neighbours."""
    size = -(-len(y) // most)
    if size <= 1:
        return list(x), list(y)
    chunks = [slice(i, i + size) for i in range(0, len(y), size)]
    mean = lambda values: sum(values) / len(values)  # noqa: E731
    return [mean(x[c]) for c in chunks], [mean(y[c]) for c in chunks]


def running_mean(values: Sequence[float], reach: int) -> list[float]:
    """Each value's mean with the `reach` values before it and after it, as far as there are any."""
    windows = [values[max(0, i - reach) : i + reach + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]


def new_axes(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty plot of this size, inches, in the page's colours."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    figure.patch.set_alpha(0.0)
    axes.patch.set_alpha(0.0)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_FAINT)
    axes.tick_params(colors=_INK, length=0)
    axes.xaxis.label.set_color(_INK)
    axes.grid(axis="y", color=_FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    return figure, axes


def inline_svg(figure: Figure, axes: Axes, name: str, legend: bool) -> str:
    """The plot as an element of a page; `name` is in its ids, and differs from those of the page's other plots."""
    if legend:
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(0.0, 1.0),
            ncols=4,
            frameon=False,
            labelcolor=_INK,
            borderaxespad=0.2,
            handlelength=2.2,
        )
    with matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": name}):
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    # Its style sheet would style the whole page, its size would not scale, and ids must differ between plots.
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(
        r"<svg[^>]*(viewBox=\"[^\"]*\")[^>]*>", r'<svg \1 aria-hidden="true" focusable="false">', svg, count=1
    )
    svg = re.sub(r'(\sid="|href="#|url\(#)', rf"\1{name}-", svg)
    svg = re.sub(r"; font-family: [^;\"]*", "", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    return svg
