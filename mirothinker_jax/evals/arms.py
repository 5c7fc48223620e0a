"""Figures of arms: series of episodes of the same questions, seeds and noise that differ in one intervention.

Episodes that could not be judged are in no figure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mirothinker_jax.evals.paired import holm, paired_difference, paired_means
from mirothinker_jax.evals.repeated import Scores, by_question, majority
from mirothinker_jax.evals.statistics import accuracy_by, wilson
from mirothinker_jax.trajectory.types import Trajectory


def arm_figures(trajectories: Sequence[Trajectory]) -> dict[str, Any]:
    """Accuracy with its 95% interval; tokens of the ledger and calls, mean per episode. JSON-able."""
    judged = [t for t in trajectories if t.correct is not None]
    if not judged:
        return {"n": 0}
    return dataclasses.asdict(wilson(sum(bool(t.correct) for t in judged), len(judged))) | {
        "tokens": float(np.mean([t.tokens for t in judged])),
        "calls": float(np.mean([t.calls for t in judged])),
    }


def by_hops(trajectories: Sequence[Trajectory]) -> dict[str, dict[str, Any]]:
    """`arm_figures` of each depth of the questions."""
    depths = sorted({int(t.metadata["hops"]) for t in trajectories})
    return {str(d): arm_figures([t for t in trajectories if t.metadata["hops"] == d]) for d in depths}


def deeper_half(
    stages: Mapping[str, Sequence[Trajectory]], on_way: Callable[[Trajectory], int]
) -> dict[str, Any]:
    """Of the deeper half of the questions' depths: `arm_figures` of each stage of training, and the last one's calls
    minus the first's by question; the same of the calls that `on_way` counts. The two p-values are adjusted for their
    number as `p_holm`. {} where there is nothing to compare. Stages come in their order."""
    judged = {s: [t for t in found if t.correct is not None] for s, found in stages.items()}
    depths = {int(t.metadata["hops"]) for found in judged.values() for t in found}
    least = max(depths, default=0) // 2 + 1
    deep = {s: [t for t in found if t.metadata["hops"] >= least] for s, found in judged.items()}
    calls = [{t.question_id: float(t.calls) for t in found} for found in deep.values()]
    if len(calls) < 2 or not calls[0].keys() & calls[-1].keys():
        return {}
    useful = [{t.question_id: float(on_way(t)) for t in found} for found in deep.values()]
    more = {"more_calls": paired_means(calls[0], calls[-1])}
    more["more_calls_on_way"] = paired_means(useful[0], useful[-1])
    adjusted = holm({name: change["p"] for name, change in more.items()})
    return {
        "links": [least, max(depths)],
        "stages": {
            s: arm_figures(found) | {"calls_on_way": float(np.mean([on_way(t) for t in found]))}
            for s, found in deep.items()
            if found
        },
        **{name: change | {"p_holm": adjusted[name]} for name, change in more.items()},
    }


def compare(first: Sequence[Trajectory], second: Sequence[Trajectory]) -> dict[str, Any]:
    """The second's accuracy minus the first's, by questions, each of which both answered once or several times."""
    return dataclasses.asdict(paired_difference(_scores(first), _scores(second)))


def compare_all(
    pairs: Mapping[str, tuple[Sequence[Trajectory], Sequence[Trajectory]]],
) -> dict[str, dict[str, Any]]:
    """`compare` of each pair, with the p-values adjusted for their number (Holm) as `p_holm`."""
    found = {name: compare(*pair) for name, pair in pairs.items()}
    adjusted = holm({name: difference["p"] for name, difference in found.items()})
    return {name: difference | {"p_holm": adjusted[name]} for name, difference in found.items()}


def majority_figures(attempts: Mapping[str, Sequence[Trajectory]], most: int) -> dict[str, dict[str, Any]]:
    """Of 1 … `most` attempts at each question: how often their majority's answer is right, and the tokens of all."""
    figures = {}
    for count in range(1, most + 1):
        asked = {question: found[:count] for question, found in attempts.items()}
        right = []
        for found in asked.values():
            place = majority([t.answer for t in found])
            right.append(place is not None and bool(found[place].correct))
        tokens = [sum(t.tokens for t in found) for found in asked.values()]
        calls = [sum(t.calls for t in found) for found in asked.values()]
        figures[str(count)] = dataclasses.asdict(wilson(sum(right), len(right))) | {
            "tokens": float(np.mean(tokens)),
            "calls": float(np.mean(calls)),
        }
    return figures


def accuracy_by_calls(trajectories: Sequence[Trajectory]) -> dict[str, dict[str, Any]]:
    """Accuracy at each number of allowed calls."""
    judged = [t for t in trajectories if t.correct is not None]
    curve = accuracy_by((int(t.metrics["max_calls"]), bool(t.correct)) for t in judged)
    return {str(calls): dataclasses.asdict(accuracy) for calls, accuracy in curve.items()}


def _scores(trajectories: Sequence[Trajectory]) -> Scores:
    return by_question((t.question_id, t.correct) for t in trajectories)
