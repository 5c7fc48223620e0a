"""study.html: a page with a plot for each section of the study that a person would rather look at than a table.

Figures are drawn and formatted, never recomputed; the sentences are study_findings.py's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup

from mirothinker_jax.data.atomic import replacing
from mirothinker_jax.evals.page import percent, points, template
from mirothinker_jax.evals.plots import Line, groups_svg
from mirothinker_jax.evals.study_findings import FAULT_NAMES, STAGE_NAMES
from mirothinker_jax.evals.study_plots import Dot, dots_svg, lines_svg, standalone_svg

Figures = Mapping[str, Any]
ARM_NAMES = {
    "isolated": "no tools",
    "pages": "all pages in the prompt",
    "react": "few calls (ReAct)",
    "shuffled": "another question's results",
    "deep": "deep",
}
_LOOKS = ("grpo", "dpo", "sft", "other")  # of the first, second, … line of a plot


@dataclass(frozen=True)
class _Plot:
    title: str
    meaning: str
    svg: Markup


@dataclass(frozen=True)
class _Table:
    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class _Section:
    key: str
    title: str
    how: str
    plots: Sequence[_Plot]
    tables: Sequence[_Table] = ()
    finding: str = field(default="", compare=False)


def write_page(path: Path, run: str, summary: Figures) -> None:
    """Writes the page of a study's summary, and beside it the main plot as a file (.svg); each whole or not at all."""
    sections = [make(summary["scaling" if key == "training" else key]) for key, make in _SECTIONS.items()]
    with_findings = [vars(s) | {"finding": summary["findings"][s.key]} for s in sections]
    text = template("study.html.j2").render(
        run=run, summary=summary, sections=with_findings, folder=summary["journals"]
    )
    with replacing(path) as scratch:
        scratch.write_text(text, encoding="utf-8")
    if summary["scaling"]["stages"]:
        with replacing(path.with_suffix(".svg")) as scratch:
            scratch.write_text(standalone_svg(stages_svg(summary["scaling"])), encoding="utf-8")


def stages_svg(figures: Figures) -> str:
    """The main plot: accuracy against allowed calls after each stage of training."""
    stages = figures["stages"].items()
    lines = [_share_line(stage, f"after {STAGE_NAMES[stage]}", curve) for stage, curve in stages]
    return groups_svg(lines, "main", "allowed tool calls")


def _scaling(figures: Figures) -> _Section:
    lines = []
    for look, (key, label) in zip(
        _LOOKS, (("silent", "cut silently"), ("announced", "announced")), strict=False
    ):
        lines.append(_share_line(look, label, figures[key]))
    heads = (
        "allowed calls",
        "silent",
        "calls",
        "tokens",
        "announced",
        "calls",
        "tokens",
        "difference",
        "p (Holm)",
    )
    rows = []
    for n, silent in figures["silent"].items():
        told, difference = figures["announced"][n], figures["announced_minus_silent"][n]
        rows.append(
            (n, *_cells(silent), *_cells(told), points(difference["mean"]), f"{difference['p_holm']:.3f}")
        )
    return _Section(
        "scaling",
        "More calls allowed",
        "Silent: the final answer is asked for when the budget is used up. Announced: the question also says what the "
        "budget is.",
        [
            _Plot(
                "Right answers",
                "against the calls that are allowed",
                _lines(lines, "scaling", "allowed calls", True),
            ),
            _Plot(
                "Tokens of an episode",
                "that those calls cost",
                _lines(_tokens(figures), "cost", "allowed calls"),
            ),
        ],
        [_Table("", heads, rows)],
    )


def _tokens(figures: Figures) -> list[Line]:
    curves = (("silent", "cut silently"), ("announced", "announced"))
    return [
        Line(look, label, list(map(int, figures[key])), [f["tokens"] for f in figures[key].values()])
        for look, (key, label) in zip(_LOOKS, curves, strict=False)
    ]


def _training(figures: Figures) -> _Section:
    how = "As the run itself measured it after each stage; by depth at its largest budget of calls."
    stages = figures["stages_by_hops"]
    if not stages:
        return _Section("training", "What training adds", how, [])
    judged = {s: {h: f for h, f in by.items() if f["n"]} for s, by in stages.items()}
    right = [_share_line(s, f"after {STAGE_NAMES[s]}", by) for s, by in judged.items()]
    calls = [
        Line(s, f"after {STAGE_NAMES[s]}", list(map(int, by)), [f["calls"] for f in by.values()])
        for s, by in judged.items()
    ]
    rows = [
        (f"{STAGE_NAMES[s]}, {h} links", *_cells(f), str(f["n"]))
        for s, by in judged.items()
        for h, f in by.items()
    ]
    title = "links between question and answer"
    plots = [
        _Plot(
            "Right answers after each stage",
            "against the calls that are allowed",
            Markup(stages_svg(figures)),
        ),
        _Plot(
            "Right answers after each stage",
            "by the depth of the question",
            _lines(right, "stages", title, True),
        ),
        _Plot("Calls per episode", "by the depth of the question", _lines(calls, "calls", title)),
    ]
    return _Section(
        "training",
        "What training adds",
        how,
        plots,
        [_Table("", ("stage, depth", "right", "calls", "tokens", "n"), rows)],
    )


def _matched(figures: Figures) -> _Section:
    lines = []
    for look, (calls, curve) in zip(_LOOKS[1:], figures["shallow"].items(), strict=False):
        lines.append(_by_tokens(look, f"many × {calls} calls", curve))
    lines.insert(0, _by_tokens("grpo", "one episode", figures["depth"]))
    rows = [(f"one episode, {n} calls", *_cells(f)) for n, f in figures["depth"].items()]
    rows += [
        (f"{k} × {calls} calls", *_cells(f))
        for calls, curve in figures["shallow"].items()
        for k, f in curve.items()
    ]
    svg = Markup(lines_svg(lines, "matched", "tokens per question", share=True, log=True))
    return _Section(
        "matched_compute",
        "Deep, or many times shallow",
        "The same tokens, spent on one longer episode, or on several short ones whose most frequent answer counts.",
        [_Plot("Right answers", "against all tokens that a question costs", svg)],
        [_Table("", ("spent on", "right", "calls", "tokens"), rows)],
    )


def _arms(figures: Figures) -> _Section:
    dots = [_dot(ARM_NAMES[arm], "grpo" if arm == "deep" else "sft", figures[arm]) for arm in ARM_NAMES]
    rows = []
    for arm, name in ARM_NAMES.items():
        against = figures[arm].get("deep_minus_this")
        rows.append((name, *_cells(figures[arm]), *_difference(against)))
    return _Section(
        "arms",
        "Feedback, its absence, its counterfeits",
        "No tools: an answer at once. All pages: whatever the way needs and as many distractors stand in the "
        "prompt, no tools. Another question's results: the calls are the policy's, the results are not.",
        [_Plot("Right answers", "of the same questions", Markup(dots_svg(dots, "arms", "right answers")))],
        [_Table("", ("arm", "right", "calls", "tokens", "deep minus this", "p (Holm)"), rows)],
    )


def _drift(figures: Figures) -> _Section:
    names = {"feedback": "with feedback", "isolated": "without"}
    by_band, looks = figures["by_band"], {"feedback": "grpo", "isolated": "dpo"}
    dots = [
        _dot(f"steps {band}, {names[arm]}", looks[arm], by_band[arm][band])
        for band in by_band["feedback"]
        for arm in names
        if by_band[arm][band] is not None
    ]
    lines = [
        Line(looks[arm], names[arm], list(map(int, done)), list(done.values()))
        for arm, done in figures["steps_done"].items()
    ]
    rows = [
        (
            f"{names[arm]}, {hops} links",
            *("–" if h is None else f"{percent(h['mean'])} of {h['n']}" for h in bands.values()),
        )
        for arm, by_depth in figures["by_depth"].items()
        for hops, bands in by_depth.items()
    ]
    svg = Markup(lines_svg(lines, "steps", "links of the walk", "steps done right", log=True))
    return _Section(
        "drift",
        "Drift: errors per step",
        "A step is right when the next page of the way is opened and read for what is needed there, however often it "
        "is tried; the last step is the answer. In each band, episodes begin where the band does, with all steps "
        "before it given and right. Without feedback, calls are made and nothing comes back.",
        [
            _Plot(
                "Errors per step",
                "of the steps that were come to",
                Markup(dots_svg(dots, "drift", "errors per step")),
            ),
            _Plot("Steps done right", "of walks from their beginning, mean", svg),
        ],
        [_Table("errors per step", ("arm, depth", *by_band["feedback"]), rows)],
    )


def _recovery(figures: Figures) -> _Section:
    dots, rows = [], []
    for kind, steps in figures.items():
        for step, f in steps.items():
            dots.append(_dot(f"{kind} after {step} page(s)", "dpo", f["with"]))
            dots.append(_dot("the same, without it", "grpo", f["without"]))
            difference = f["with_minus_without"]
            rows.append(
                (
                    f"{FAULT_NAMES[kind]}, after {step}",
                    *_cells(f["with"]),
                    *_cells(f["without"]),
                    *_difference(difference),
                )
            )
    heads = (
        "what goes wrong",
        "right",
        "calls",
        "tokens",
        "without it",
        "calls",
        "tokens",
        "difference",
        "p (Holm)",
    )
    svg = Markup(dots_svg(dots, "recovery", "right answers")) if dots else Markup("")
    return _Section(
        "recovery",
        "Recovery from errors that are not its own",
        "On a web where nothing else goes wrong. Dead: the page answers 404. Wrong: another page comes. Contradiction: "
        "the right heading with another page's line, which nothing gives away: only reading it again tells.",
        [_Plot("Right answers", "with the fault and without it, the same episodes", svg)] if dots else [],
        [_Table("", heads, rows)] if rows else [],
    )


def _languages(figures: Figures) -> _Section:
    names = {"english": "English", "frame": "Chinese around English names", "chinese": "Chinese"}
    dots = [_dot(names[key], "grpo" if key == "english" else "dpo", figures[key]) for key in names]
    rows = [
        (names[key], *_cells(figures[key]), *_difference(figures[key].get("english_minus_this")))
        for key in names
    ]
    return _Section(
        "languages",
        "The same questions in Chinese",
        "The same pages and ways, in words that the policy was never trained on.",
        [
            _Plot(
                "Right answers",
                "by the language of the question",
                Markup(dots_svg(dots, "languages", "right answers")),
            )
        ],
        [_Table("", ("language", "right", "calls", "tokens", "English minus this", "p (Holm)"), rows)],
    )


def _memory(figures: Figures) -> _Section:
    lines = [
        Line(look, name, list(map(int, by)), [f["steps_done"] for f in by.values()])
        for look, (name, by) in zip(_LOOKS, figures.items(), strict=False)
    ]
    longest = [
        Line(look, name, list(map(int, by)), [f["longest_context"] for f in by.values()])
        for look, (name, by) in zip(_LOOKS, figures.items(), strict=False)
    ]
    rows = [
        (
            f"{name}, {hops} links",
            *_cells(f),
            f"{f['steps_done']:.1f} of {f['steps_needed']}",
            f"{f['longest_context']:.0f}",
        )
        for name, by in figures.items()
        for hops, f in by.items()
    ]
    title = "links of the walk"
    return _Section(
        "memory",
        "Long walks, with old results hidden",
        "keep-all shows all results, keep-5 the last five, and hysteresis lets them pile up to fifteen before it cuts "
        "them to five. The room is enough for the whole walk.",
        [
            _Plot("Steps done right", "mean", Markup(lines_svg(lines, "memory", title, log=True))),
            _Plot("Longest context", "tokens, mean", Markup(lines_svg(longest, "context", title, log=True))),
        ],
        [_Table("", ("results, depth", "right", "calls", "tokens", "steps", "longest context"), rows)],
    )


_SECTIONS = {
    "scaling": _scaling,
    "training": _training,
    "matched_compute": _matched,
    "arms": _arms,
    "drift": _drift,
    "recovery": _recovery,
    "languages": _languages,
    "memory": _memory,
}


def _share_line(look: str, label: str, curve: Figures) -> Line:
    y, low, high = ([f[part] for f in curve.values()] for part in ("mean", "low", "high"))
    return Line(look, label, list(map(int, curve)), y, low, high)


def _by_tokens(look: str, label: str, curve: Figures) -> Line:
    points = sorted(curve.values(), key=lambda f: f["tokens"])
    x, y, low, high = ([f[part] for f in points] for part in ("tokens", "mean", "low", "high"))
    return Line(look, label, x, y, low, high)


def _lines(lines: Sequence[Line], name: str, x_title: str, share: bool = False) -> Markup:
    return Markup(lines_svg(lines, name, x_title, share=share))


def _dot(label: str, look: str, f: Figures) -> Dot:
    return Dot(label, look, f["mean"], f["low"], f["high"])


def _cells(f: Figures) -> tuple[str, str, str]:
    if not f["n"]:
        return "–", "–", "–"
    return (
        f"{percent(f['mean'])} [{percent(f['low'])}, {percent(f['high'])}]",
        f"{f['calls']:.1f}",
        f"{f['tokens']:.0f}",
    )


def _difference(against: Figures | None) -> tuple[str, str]:
    if against is None:
        return "", ""
    interval = f"[{points(against['low'])}, {points(against['high'])}]"
    return f"{points(against['mean'])} {interval}", f"{against['p_holm']:.3f}"
