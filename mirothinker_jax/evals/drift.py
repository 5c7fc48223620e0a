"""How far an episode keeps its way: the steps it does right, and the chance of losing the way at each.

Step k is right when the k-th page of the question's way was asked for what the question needs there, after all pages
before it; what else was tried in between does not matter, so a mistake that is made good is no error. The
last step is the right answer. The *hazard* of a band of steps is the share of those that were not done among those that
an episode came to.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mirothinker_jax.agent.wire.formats import WIRES
from mirothinker_jax.evals.statistics import Accuracy, wilson
from mirothinker_jax.tools.spec import ToolCall
from mirothinker_jax.trajectory.types import Trajectory

BANDS = ((1, 5), (6, 20), (21, 10**9))


@dataclass(frozen=True)
class Walk:
    """How far an episode came.

    Attributes:
      start: steps that were given to it, all right.
      done: the last step that it did right.
      needed: steps of the whole way.
    """

    start: int
    done: int
    needed: int


def read_walk(
    trajectory: Trajectory,
    pages: Sequence[str],
    reads: Sequence[str],
    start: int = 0,
    call_format: str = "mcp",
) -> Walk:
    """`pages`: the last part of the addresses of the way's pages; `reads`: what is needed on each of them."""
    done = calls_on_way(trajectory, pages, reads, call_format)
    return Walk(start, done + (done == len(pages) and bool(trajectory.correct)), len(pages) + 1)


def calls_on_way(
    trajectory: Trajectory, pages: Sequence[str], reads: Sequence[str], call_format: str = "mcp"
) -> int:
    """The calls that ask for the next page of the way, and for what is needed there, whatever came back. What a turn
    says beyond the budget of calls is not made, and does not count."""
    turns = range(1, len(trajectory.turns) + 1)
    said = (call for turn in turns for call in calls_of_turn(trajectory, turn, call_format))
    done = 0
    for call in itertools.islice(said, trajectory.calls):
        done += done < len(pages) and _reads(call, pages[done], reads[done])
    return done


def calls_of_turn(trajectory: Trajectory, turn: int, call_format: str = "mcp") -> list[ToolCall]:
    """The calls that turn number `turn`, from 1, makes; none of a turn that there is not."""
    if not 1 <= turn <= len(trajectory.turns):
        return []
    text = trajectory.segments[trajectory.turns[turn - 1].segment].text
    return [call for call in WIRES[call_format].parse(text).calls if isinstance(call, ToolCall)]


def _reads(call: ToolCall, page: str, wanted: str) -> bool:
    url, info = call.arguments.get("url"), call.arguments.get("info_to_extract")
    return str(url).rpartition("/")[2] == page and str(info) == wanted


def hazard(walks: Iterable[Walk], band: tuple[int, int]) -> Accuracy | None:
    """Errors per step in a band, over the steps that the episodes came to; None where none came there.

    >>> hazard([Walk(0, 2, 4), Walk(0, 4, 4)], (1, 5))  # seven steps, one of them wrong
    Accuracy(mean=0.14285714285714285, low=0.025680480096037386, high=0.5131493118389766, n=7)
    """
    first, last = band
    errors = steps = 0
    for walk in walks:
        tried = min(walk.done + 1, walk.needed)
        steps += max(0, min(tried, last) - max(walk.start + 1, first) + 1)
        errors += walk.done < walk.needed and first <= walk.done + 1 <= last
    return wilson(errors, steps) if steps else None
