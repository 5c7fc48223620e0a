"""report.html of a run: one file that needs nothing else, made from the files in the run folder.

Reads metrics.jsonl, summary.json, config.json (the resolved config) and <stage>/eval_trajectories.jsonl; what
is not there leaves its section out. Everything shown is text to the template, and escaped there: a page that
the agent read may well hold a script. The only markup that passes is the SVG that plots.py draws. Sample episodes are
drawn as an evaluation's are (report_evaluation.py), by the page's own script. Figures are
formatted, never recomputed; the one derived here is the gain over the first stage, with its interval.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from mirothinker_jax.config import STAGES, Config
from mirothinker_jax.config_tree import flat, to_plain
from mirothinker_jax.data.atomic import replacing
from mirothinker_jax.evals.episodes import Decode, choose, episode_record, hops, read_episodes, token_record
from mirothinker_jax.evals.page import duration, number, percent, template
from mirothinker_jax.evals.plots import Line, groups_svg, steps_svg
from mirothinker_jax.evals.series import PLOTTED, Series, read_series, series_to_plot
from mirothinker_jax.evals.statistics import Accuracy, difference
from mirothinker_jax.evals.summary import read_summary

STAGE_NAMES = {"sft": "SFT", "dpo": "DPO", "grpo": "GRPO"}
_OWN_SECTION = {
    *("accuracy", "scaling", "scaling_intervals", "by_hops", "stop_reasons", "calls_per_episode", "phases"),
    *("wall_s", "peak_rss_gib", "seed"),
}


def write_report(run_dir: str | os.PathLike[str], decode: Decode | None = None) -> Path:
    """Writes `run_dir`/report.html, whole or not at all, and returns its path.

    May be called while the run is under way, and after any stage. Lines that cannot be read are counted in
    the report. With `decode`, ids of tokens → text, sample episodes show what each token says.

    Raises ValueError where summary.json or config.json is not JSON.
    """
    run = Path(run_dir)
    summary, notes = read_summary(run), []
    series, unreadable = read_series(run / "metrics.jsonl") if (run / "metrics.jsonl").exists() else ({}, 0)
    if unreadable:
        notes.append(f"{unreadable} line(s) of metrics.jsonl could not be read and are left out.")
    settings = _settings(run / "config.json")
    call_format = settings.get("data.call_format")
    episodes = {}
    for stage in STAGES:
        path = run / stage / "eval_trajectories.jsonl"
        if path.exists():
            found, unreadable = _sample_episodes(path, decode, call_format)
            episodes[stage] = found
            if unreadable:
                notes.append(
                    f"{unreadable} line(s) of {stage}/{path.name} could not be read and are left out."
                )
    text = template("report.html.j2", "viewer.js", "timeline.js", "page.js").render(
        run=run.resolve().name,
        summary=summary,
        names=STAGE_NAMES,
        headline=_headline(summary.get("accuracy", {})),
        ends=_ends(summary),
        scaling=_groups(summary, "scaling_intervals", "scaling", "allowed tool calls"),
        by_hops=_groups(summary, "by_hops", "hops", "links between question and answer"),
        training={stage: _training(stage, figures) for stage, figures in series.items()},
        figures={stage: list(figures.values()) for stage, figures in series.items()},
        phases=_phases(summary.get("phases", {})),
        machine=_machine(summary),
        changed=_changed(settings),
        episodes={stage: chosen for stage, chosen in episodes.items() if chosen},
        notes=notes,
    )
    path = run / "report.html"
    with replacing(path) as scratch:
        scratch.write_text(text, encoding="utf-8")
    return path


def _sample_episodes(
    path: Path, decode: Decode | None, call_format: str | None
) -> tuple[list[dict[str, Any]], int]:
    """What the page shows of a stage's sample, and how much of the journal could not be read."""
    episodes = read_episodes([path])
    chosen = choose([t for t in episodes.ended() if t.correct is not None])
    told = [
        {
            "about": t,
            "hops": hops(t),
            "record": episode_record(t, episodes.times.get(t.id), call_format),
            "tokens": token_record(t, decode),
        }
        for t in chosen
    ]
    return told, episodes.damaged


def _headline(accuracies: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A card for each stage: its accuracy, and its gain over the first one."""
    cards: list[dict[str, Any]] = []
    for stage in (s for s in STAGES if s in accuracies):
        accuracy = Accuracy(**accuracies[stage])
        gain = difference(accuracy, cards[0]["accuracy"]) if cards else None
        cards.append({"stage": stage, "accuracy": accuracy, "gain": gain})
    return cards


def _ends(summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """Why the evaluated episodes ended, and how many calls they made, per stage."""
    counts, calls = summary.get("stop_reasons", {}), summary.get("calls_per_episode", {})
    stages = [s for s in STAGES if s in counts or s in calls]
    reasons = sorted({reason for of_stage in counts.values() for reason in of_stage})
    return {"stages": stages, "reasons": reasons, "counts": counts, "calls": calls} if stages else None


def _groups(summary: Mapping[str, Any], key: str, name: str, x_title: str) -> dict[str, Any] | None:
    """A plot of accuracy against groups with one line per stage, and its figures as a table."""
    curves = {s: summary.get(key, {}).get(s) for s in STAGES}
    curves = {s: {int(g): Accuracy(**a) for g, a in curve.items()} for s, curve in curves.items() if curve}
    if not curves:
        return None
    lines = []
    for stage, curve in curves.items():
        x = sorted(curve)
        y, low, high = ([getattr(curve[g], part) for g in x] for part in ("mean", "low", "high"))
        lines.append(Line(stage, f"after {STAGE_NAMES[stage]}", x, y, low, high))
    groups = sorted({g for curve in curves.values() for g in curve})
    ends = [f"{line.label} from {percent(line.y[0])} to {percent(line.y[-1])}" for line in lines]
    return {
        "svg": Markup(groups_svg(lines, name, x_title)),
        "label": f"Accuracy against {x_title}, from {groups[0]} to {groups[-1]}: {'; '.join(ends)}.",
        "groups": groups,
        "curves": curves,
    }


def _training(stage: str, figures: Mapping[str, Series]) -> list[dict[str, Any]]:
    plots = []
    for series in series_to_plot(figures):
        title, meaning = PLOTTED[series.name]
        first, last = series.values[0], series.values[-1]
        svg = steps_svg(Line(stage, title, series.steps, series.values), f"{stage}-{series.name}")
        steps = f"steps {series.steps[0]} to {series.steps[-1]}"
        label = f"{title}, {steps}: from {number(first)} to {number(last)}."
        plots.append(
            {"svg": Markup(svg), "title": title, "meaning": meaning, "label": label, "series": series}
        )
    return plots


def _phases(phases: Mapping[str, float]) -> list[dict[str, Any]]:
    longest = max(phases.values(), default=0.0) or 1.0
    return [{"name": n, "seconds": s, "share": 100 * s / longest} for n, s in phases.items()]


def _machine(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How long, how much, on what: the rest of the summary."""
    rows = []
    if "wall_s" in summary:
        rows.append(("wall clock", duration(summary["wall_s"])))
    if "peak_rss_gib" in summary:
        rows.append(("peak memory of the process", f"{summary['peak_rss_gib']:.2f} GiB"))
    if "seed" in summary:
        rows.append(("seed", str(summary["seed"])))
    for name, value in flat({k: v for k, v in summary.items() if k not in _OWN_SECTION}).items():
        rows.append(
            (name.replace("_", " "), number(value) if isinstance(value, (int, float)) else str(value))
        )
    return rows


def _settings(path: Path) -> dict[str, Any]:
    """Those of config.json, by their dotted names."""
    if not path.exists():
        return {}
    try:
        return flat(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); the run writes it when it starts") from None


def _changed(here: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(key, default, this run's value) for each setting that differs from the default."""
    defaults = flat(to_plain(Config()))
    return [(k, _setting(defaults.get(k, "")), _setting(v)) for k, v in here.items() if defaults.get(k) != v]


def _setting(value: Any) -> str:
    """A setting's value; items of a list are quoted, because some are a space or end in one."""
    return (", ".join(map(repr, value)) or "()") if isinstance(value, list) else str(value)
