"""What the study shows, a plain sentence or two for each section, computed from its figures: also where it shows
nothing, or the opposite of what one would like.

A difference counts as shown where its adjusted p-value is below 0.05.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SURE = 0.05
STAGE_NAMES = {"sft": "SFT", "dpo": "DPO", "grpo": "GRPO"}
FAULT_NAMES = {
    "dead": "a dead link (404)",
    "wrong": "a wrong page",
    "contradiction": "a page with a false line",
}
Figures = Mapping[str, Any]


def findings(summary: Figures) -> dict[str, str]:
    """Section → what it shows."""
    return {
        "scaling": scaling(summary["scaling"]),
        "training": training(summary["scaling"]),
        "matched_compute": matched_compute(summary["matched_compute"]),
        "arms": arms(summary["arms"]),
        "drift": drift(summary["drift"]),
        "recovery": recovery(summary["recovery"]),
        "languages": languages(summary["languages"]),
        "memory": memory(summary["memory"], summary["max_hops"]),
    }


def percent(share: float) -> str:
    """A share, as people write it."""
    return f"{100 * share:.0f}%"


def scaling(figures: Figures) -> str:
    """Of accuracy against allowed calls, and of telling how many there are."""
    silent = figures["silent"]
    fewest, most = min(silent, key=int), max(silent, key=int)
    before, after = silent[fewest], silent[most]
    helped = after["low"] > before["high"]
    text = (
        f"With {_calls(fewest)} allowed {percent(before['mean'])} of the answers are right, with {most} "
        f"{percent(after['mean'])}: {'more interaction helps' if helped else 'no gain from more interaction is shown'}."
    )
    sure = {n: d for n, d in figures["announced_minus_silent"].items() if d["p_holm"] < SURE}
    if not sure:
        return (
            text
            + " Whether the policy is told its budget makes no difference that could be told from chance."
        )
    worst = max(sure, key=lambda n: abs(sure[n]["mean"]))
    return (
        text
        + f" Told its budget, which training never did, it is {_change(sure[worst]['mean'])} at {worst} calls."
    )


def training(figures: Figures) -> str:
    """Of what training adds on the deeper half of the questions, in accuracy and in calls."""
    if not (deep := figures["deeper_half"]):
        return "The run measured fewer than two stages on deep questions, so nothing is said of what training adds."
    first, *_, last = deep["stages"]
    before, after = deep["stages"][first], deep["stages"][last]
    least, most = deep["links"]
    sure = after["low"] > before["high"]
    return (
        f"On questions of {least} to {most} links, {percent(before['mean'])} are right after {STAGE_NAMES[first]} with "
        f"{before['calls']:.1f} calls each, and {percent(after['mean'])} after {STAGE_NAMES[last]} with "
        f"{after['calls']:.1f}: accuracy {'rises' if sure else 'does not rise beyond chance'}, and calls "
        f"{_trend(deep['more_calls'])}. Of them, {before['calls_on_way']:.1f} and {after['calls_on_way']:.1f} ask for "
        f"the next page of the way: these {_trend(deep['more_calls_on_way'])}."
    )


def matched_compute(figures: Figures) -> str:
    """Of one deep episode against a majority of shallow ones that cost at least as much."""
    deep = figures["depth"][max(figures["depth"], key=int)]
    parts, beaten = [], True
    for calls, curve in figures["shallow"].items():
        enough = [n for n, f in curve.items() if f["tokens"] >= deep["tokens"]] or [max(curve, key=int)]
        shallow = curve[enough[0]]
        beaten &= shallow["high"] < deep["low"]
        parts.append(
            f"the majority of {enough[0]} attempts of at most {_calls(calls)} ({shallow['tokens']:.0f} tokens) "
            f"{percent(shallow['mean'])}"
        )
    return (
        f"One deep episode ({deep['tokens']:.0f} tokens) is right in {percent(deep['mean'])}, {'; '.join(parts)}: "
        f"depth {'cannot be bought back by width here' if beaten else 'is not clearly better than width here'}."
    )


def arms(figures: Figures) -> str:
    """Of feedback against its absence and its counterfeits."""
    names = {
        "isolated": "without tools",
        "pages": "with all pages in the prompt and no tools",
        "react": "with few calls",
        "shuffled": "with another question's results",
    }
    parts = [f"{percent(figures[arm]['mean'])} {name}" for arm, name in names.items()]
    unsure = [n for a, n in names.items() if not _better(figures[a]["deep_minus_this"])]
    shown = f"except {', '.join(unsure)}, " if unsure else ""
    verdict = (
        f"{shown}the deep agent is better beyond chance"
        if len(unsure) < len(names)
        else "it may all be chance"
    )
    return (
        f"The deep agent is right in {percent(figures['deep']['mean'])} of the same questions, {', '.join(parts)}; "
        f"{verdict}."
    )


def drift(figures: Figures) -> str:
    """Of errors per step, band by band."""
    parts, holds = [], True
    feedback, isolated = figures["by_band"]["feedback"], figures["by_band"]["isolated"]
    for band in feedback:
        a, b = feedback[band], isolated[band]
        if a is None or b is None:
            parts.append(f"steps {band} were reached by none")
            holds = False
            continue
        parts.append(f"steps {band}: {percent(a['mean'])} against {percent(b['mean'])}")
        holds &= a["high"] < b["low"]
    end = (
        "feedback keeps drift down in every band"
        if holds
        else "this does not hold beyond chance in every band"
    )
    where = _end(figures["steps_done"])
    return f"Errors per step, with feedback against without: {'; '.join(parts)}. So {end}. {where}"


def _end(steps_done: Figures) -> str:
    """Where walks with feedback end."""
    done = {int(hops): steps for hops, steps in steps_done["feedback"].items()}
    kept = [hops for hops, steps in done.items() if steps >= 0.9 * (hops + 2)]
    lost = [hops for hops in done if hops not in kept]
    parts = [f"Walks of up to {max(kept)} links are nearly all walked to their end"] if kept else []
    parts += (
        [f"of {min(lost)} links {done[min(lost)]:.1f} of {min(lost) + 2} steps are done on average"]
        if lost
        else []
    )
    return f"{'; '.join(parts).capitalize() if not kept else '; '.join(parts)}."


def recovery(figures: Figures) -> str:
    """Of what goes wrong on the way, by kind."""
    if not figures:
        return "No episode came so far that anything could go wrong on its way."
    parts = []
    for kind, steps in figures.items():
        n = sum(s["with"]["n"] for s in steps.values())
        kept = sum(s["with"]["mean"] * s["with"]["n"] for s in steps.values()) / n
        plain = sum(s["without"]["mean"] * s["without"]["n"] for s in steps.values()) / n
        sure = any(s["with_minus_without"]["p_holm"] < SURE for s in steps.values())
        parts.append(
            f"after {FAULT_NAMES[kind]} {percent(kept)} instead of {percent(plain)}{'' if sure else ' (maybe chance)'}"
        )
    return f"Of the same episodes, right are {'; '.join(parts)}."


def languages(figures: Figures) -> str:
    """Of questions in Chinese words."""
    return (
        f"Asked in Chinese, which it never saw, the policy is right in {percent(figures['chinese']['mean'])} instead "
        f"of {percent(figures['english']['mean'])}; with Chinese words only around the names on the pages, in "
        f"{percent(figures['frame']['mean'])}."
    )


def memory(figures: Figures, max_hops: int) -> str:
    """Of long walks, with old results hidden or not."""
    best = {
        name: max((f["steps_done"], int(hops), f["steps_needed"]) for hops, f in depths.items())
        for name, depths in figures.items()
    }
    name = max(best, key=lambda key: best[key])
    right = max(f["mean"] for depths in figures.values() for f in depths.values() if f["n"])
    parts = [f"{steps:.1f} with {each}" for each, (steps, _, _) in best.items()]
    verdict = (
        "no long walk is answered"
        if right == 0
        else f"at best {percent(right)} of the long walks of one depth are answered"
    )
    return (
        f"A policy trained on up to {max_hops} links does not walk {min(map(int, figures[name]))} and more: on average "
        f"it does at most {', '.join(parts)} steps right, and {verdict}."
        if right < 0.5
        else f"Long walks are answered in up to {percent(right)}; most steps right on average: {', '.join(parts)}."
    )


def _better(difference: Figures) -> bool:
    return difference["mean"] > 0 and difference["p_holm"] < SURE


def _calls(count: str) -> str:
    return "1 call" if count == "1" else f"{count} calls"


def _trend(more: Figures) -> str:
    return ("fall", "rise")[more["mean"] > 0] if more["p_holm"] < SURE else "change no more than by chance"


def _change(difference: float) -> str:
    return f"{abs(100 * difference):.0f} points {'better' if difference > 0 else 'worse'}"
