"""The study's plots: lines over numbers, and dots with their intervals, in the colours of plots.py."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, PercentFormatter

from mirothinker_jax.evals.plots import Line, inline_svg, new_axes, style


@dataclass(frozen=True)
class Dot:
    """A share with its 95% interval, in a row of its own. `look` is a stage's name, or another one (plots.py)."""

    label: str
    look: str
    mean: float
    low: float
    high: float


def lines_svg(
    lines: Sequence[Line], name: str, x_title: str, y_title: str = "", share: bool = False, log: bool = False
) -> str:
    """Lines over numbers; with `share`, of shares 0…1. `log`: each doubling of x is equally wide."""
    figure, axes = new_axes(5.4, 3.3)
    for line in lines:
        colour, marker, dashes = style(line.stage)
        if line.low:
            axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.14, linewidth=0)
        axes.plot(
            line.x, line.y, color=colour, marker=marker, markersize=5, linestyle=dashes, label=line.label
        )
    if log:
        axes.set_xscale("log", base=2)
        values = [x for line in lines for x in line.x]
        axes.xaxis.set_major_locator(LogLocator(2.0, subs=(1.0, 1.5)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0f}")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim(min(values) * 0.9, max(values) * 1.1)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    if share:
        axes.set_ylim(-0.02, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    else:
        axes.set_ylim(bottom=0)
    axes.set_xlabel(x_title)
    axes.set_ylabel(y_title)
    axes.yaxis.label.set_color(axes.xaxis.label.get_color())
    return inline_svg(figure, axes, name, legend=len(lines) > 1)


def dots_svg(dots: Sequence[Dot], name: str, x_title: str) -> str:
    """Shares, a row each, the first on top."""
    figure, axes = new_axes(5.4, 0.8 + 0.32 * len(dots))
    for row, dot in enumerate(dots):
        colour, marker, _ = style(dot.look)
        axes.plot(
            [dot.low, dot.high], [row, row], color=colour, linewidth=5, alpha=0.3, solid_capstyle="butt"
        )
        axes.plot([dot.mean], [row], color=colour, marker=marker, markersize=6)
    axes.set_yticks(range(len(dots)), [dot.label for dot in dots])
    axes.set_ylim(len(dots) - 0.5, -0.5)
    axes.set_xlim(-0.02, 1.02)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel(x_title)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color=axes.spines["left"].get_edgecolor(), linewidth=0.7)
    return inline_svg(figure, axes, name, legend=False)


def standalone_svg(svg: str) -> str:
    """A page's plot as a file of its own, in the page's colours, by day and by night."""
    style = resources.files("mirothinker_jax.evals").joinpath("page.css").read_text(encoding="utf-8")
    colours = re.findall(r"(--\w+): light-dark\((#\w+), (#\w+)\)", style)
    light, dark = (";".join(f"{each[0]}:{each[i]}" for each in colours) for i in (1, 2))
    own = (
        f":root{{{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}text{{font-family:sans-serif}}"
    )
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return re.sub(r"<svg ([^>]*)>", rf"<svg {names} \1><style>{own}</style>", svg, count=1) + "\n"
