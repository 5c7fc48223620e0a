"""Steps done right are read off what an episode did, and hazards off the steps that were come to."""

import pytest

from mirothinker_jax.evals.drift import BANDS, Walk, calls_of_turn, calls_on_way, hazard, read_walk
from mirothinker_jax.tools.spec import ToolCall, render_call
from mirothinker_jax.trajectory.types import Segment, Source, Stop, Trajectory, TurnContext

PAGES, READS = ("KTM", "PKR", "KTM"), ("west", "east", "city")


def read(page, wanted, host="a.test"):
    return render_call(ToolCall("s", "scrape", {"url": f"http://{host}/{page}", "info_to_extract": wanted}))


SEARCH = render_call(ToolCall("s", "search", {"q": "KTM"}))
RIGHT = [SEARCH, read("KTM", "west"), read("PKR", "east"), read("KTM", "city")]


def episode(*turns, correct=False, calls=None):
    segments = [Segment(Source.PROMPT, (1,), (("user", "?"),))]
    for text in turns:
        segments.append(Segment(Source.POLICY, (1,), (("assistant", f"<think>x</think>{text}"),), (0.0,)))
        segments.append(Segment(Source.OBSERVATION, (1,), (("tool", RIGHT[1]),)))  # a page may hold a call
    spoken = [TurnContext(i, tuple(range(i))) for i, s in enumerate(segments) if s.source is Source.POLICY]
    said = sum(text.count("<use_mcp_tool>") for text in turns)
    fields = {"calls": said if calls is None else calls, "failed_calls": 0, "malformed_calls": 0}
    return Trajectory(
        "e",
        "q",
        "?",
        "",
        None,
        Stop.ANSWERED,
        **fields,
        segments=tuple(segments),
        turns=tuple(spoken),
        correct=correct,
    )


@pytest.mark.parametrize(
    ("turns", "correct", "done"),
    [
        ([], False, 0),
        ([SEARCH], False, 0),
        (RIGHT[:2], False, 1),
        (RIGHT, False, 3),
        ([*RIGHT, "\\boxed{x}"], True, 4),
        # A right answer that the way did not lead to is no walk to the end.
        ([SEARCH, "\\boxed{x}"], True, 0),
        # Tried twice, after a mistake, on a mirror, two in a turn.
        ([RIGHT[1], RIGHT[1], read("BOM", "east"), RIGHT[2]], False, 2),
        ([read("KTM", "east"), RIGHT[1]], False, 1),
        ([read("KTM", "west", "mirror.test")], False, 1),
        ([f"{RIGHT[1]}\n\n{RIGHT[2]}"], False, 2),
        # Out of order.
        ([RIGHT[2], RIGHT[1]], False, 1),
    ],
)
def test_how_far_an_episode_came(turns, correct, done):
    assert read_walk(episode(*turns, correct=correct), PAGES, READS) == Walk(0, done, 4)


def test_what_is_said_beyond_the_budget_is_no_step():
    """Of a turn with more calls than are left, and of a final answer that calls again."""
    assert calls_on_way(episode(*RIGHT, calls=3), PAGES, READS) == 2
    assert calls_on_way(episode(*RIGHT, correct=True), PAGES, READS) == 3  # the answer is no call


def test_calls_of_a_turn():
    found = episode(SEARCH, "no call", RIGHT[1])
    assert [len(calls_of_turn(found, n)) for n in (0, 1, 2, 3, 4)] == [0, 1, 0, 1, 0]
    assert calls_of_turn(found, 1) == [ToolCall("s", "search", {"q": "KTM"})]


@pytest.mark.parametrize(
    ("walks", "errors", "steps"),
    [
        ([Walk(0, 4, 4)], [0, None, None], [4, 0, 0]),
        ([Walk(0, 0, 4)], [1, None, None], [1, 0, 0]),
        ([Walk(0, 5, 10)], [0, 1, None], [5, 1, 0]),
        ([Walk(0, 30, 30)], [0, 0, 0], [5, 15, 10]),
        # What was given was not risked.
        ([Walk(5, 7, 30)], [None, 1, None], [0, 3, 0]),
        ([Walk(20, 20, 30), Walk(20, 29, 30)], [None, None, 2], [0, 0, 11]),
        ([], [None] * 3, [0] * 3),
    ],
)
def test_errors_per_step(walks, errors, steps):
    found = [hazard(walks, band) for band in BANDS]
    assert [h and round(h.mean * h.n) for h in found] == errors
    assert [h.n if h else 0 for h in found] == steps
