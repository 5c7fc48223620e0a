"""Which episodes are worth learning from, beyond being right or wrong (MiroThinker, arXiv 2511.11793, §RL).

A correct one that fought a broken network, asked the same thing again and again or waited for timeouts would teach
that. A wrong one that failed on trivial form, went round in a loop or stopped early says nothing about research.
What is dropped of a GRPO group is part of no mean.

Calls are read from what the policy said, by the parser of the run's call format; failures of the network are figures
of the agent loop, in `Trajectory.metrics`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from mirothinker_jax.trajectory.reward import violates_format
from mirothinker_jax.trajectory.types import NETWORK_ROW, TIMEOUTS, Stop, Trajectory

# An assistant message → its calls, each as a value that equals only that of the same call.
CallsOf = Callable[[str], Sequence[Hashable]]


@dataclass(frozen=True)
class CurationRules:
    """The most, or the least, that an episode may have and stay."""

    network_row: int = 5  # of a correct one: network failures in a row
    timeouts: int = 5  # of a correct one: calls that ran into their deadline
    retries: int = 1  # of a correct one: calls that the turn before had made already
    repeats: int = 3  # of a wrong one: how often it makes the same call
    least_calls: int = 1  # of a wrong one: fewer are an early stop


DEFAULT = CurationRules()


def reason_to_drop(trajectory: Trajectory, calls_of: CallsOf, rules: CurationRules = DEFAULT) -> str:
    """Why it should not be learned from, as a line for the log; "" where it should."""
    if trajectory.stop is Stop.INFRASTRUCTURE or trajectory.correct is None:
        return "was broken by the infrastructure, or not judged"
    said = [m["content"] for m in trajectory.messages() if m["role"] == "assistant"]
    turns = [tuple(calls_of(content)) for content in said]
    return (
        _of_correct(trajectory, turns, rules) if trajectory.correct else _of_wrong(trajectory, turns, rules)
    )


def curate(
    trajectories: Iterable[Trajectory], calls_of: CallsOf, rules: CurationRules = DEFAULT
) -> tuple[list[Trajectory], dict[str, str]]:
    """(those to learn from, in their order; episode id → reason, of those that are dropped)."""
    kept, dropped = [], {}
    for trajectory in trajectories:
        reason = reason_to_drop(trajectory, calls_of, rules)
        if reason:
            dropped[trajectory.id] = reason
        else:
            kept.append(trajectory)
    return kept, dropped


def _of_correct(trajectory: Trajectory, turns: Sequence[tuple], rules: CurationRules) -> str:
    in_a_row, timeouts = (int(trajectory.metrics.get(name, 0)) for name in (NETWORK_ROW, TIMEOUTS))
    if in_a_row > rules.network_row:
        return f"is correct, with {in_a_row} network failures in a row (more than {rules.network_row})"
    if timeouts > rules.timeouts:
        return f"is correct, with {timeouts} timeouts (more than {rules.timeouts})"
    retries = sum(call in before for before, after in pairwise(turns) for call in set(after))
    if retries > rules.retries:
        return f"is correct, with {retries} calls made again at once (more than {rules.retries})"
    return ""


def _of_wrong(trajectory: Trajectory, turns: Sequence[tuple], rules: CurationRules) -> str:
    if violates_format(trajectory):
        return f"is wrong, by form: {trajectory.malformed_calls} malformed calls, ended by {trajectory.stop}"
    most = max(Counter(call for calls in turns for call in calls).values(), default=0)
    if most > rules.repeats:
        return f"is wrong, in a loop: one call made {most} times (more than {rules.repeats})"
    if trajectory.stop is Stop.GAVE_UP:
        return "is wrong, having given up"
    if trajectory.calls < rules.least_calls:
        return f"is wrong, after {trajectory.calls} calls (fewer than {rules.least_calls})"
    return ""
