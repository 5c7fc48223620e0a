"""Which episodes are dropped, and the reason that is given."""

import pytest
from stretches import PROMPT, segment

from mirothinker_jax.trajectory.curation import curate, reason_to_drop
from mirothinker_jax.trajectory.types import Source, Stop


def calls_of(content):
    """Calls are words in capitals."""
    return [word for word in content.split() if word.isupper()]


def episode(make, turns, **fields):
    """Each turn says some words, and a result follows it."""
    segments = [PROMPT]
    for words in turns:
        segments += [
            segment(Source.POLICY, (7,), words, (-1.0,)),
            segment(Source.OBSERVATION, (8,), "a result"),
        ]
    fields = {"calls": sum(len(calls_of(words)) for words in turns)} | fields
    return make(segments=tuple(segments[:-1]), **fields)


PLAIN = ("A", "B C", "D", "done")


@pytest.mark.parametrize(
    ("correct", "turns", "fields", "reason"),
    [
        (True, PLAIN, {}, ""),
        (True, PLAIN, {"metrics": {"network_failures_in_a_row": 5}}, ""),
        (True, PLAIN, {"metrics": {"network_failures_in_a_row": 6}}, "6 network failures in a row"),
        (True, PLAIN, {"metrics": {"timeouts": 6}}, "6 timeouts"),
        (True, ("A", "A", "B", "done"), {}, ""),
        (True, ("A B", "B A", "done"), {}, "2 calls made again at once"),
        (True, ("A", "B", "A", "B", "A", "B", "done"), {}, ""),  # another look later is no retry
        (True, ("done",), {}, ""),
        (False, PLAIN, {}, ""),
        (False, PLAIN, {"metrics": {"network_failures_in_a_row": 6, "timeouts": 9}}, ""),
        (False, PLAIN, {"stop": Stop.NO_ANSWER}, "by form: 0 malformed calls, ended by no_answer"),
        (False, PLAIN, {"malformed_calls": 2}, "by form: 2 malformed calls"),
        (False, ("A", "B", "A", "A", "done"), {}, ""),
        (False, ("A", "B A", "A", "A", "done"), {}, "one call made 4 times"),
        (False, PLAIN, {"stop": Stop.GAVE_UP}, "given up"),
        (False, ("done",), {}, "after 0 calls"),
        (None, PLAIN, {}, "not judged"),
        (False, PLAIN, {"stop": Stop.INFRASTRUCTURE}, "infrastructure"),
    ],
    ids=str,
)
def test_the_reason(make, correct, turns, fields, reason):
    found = reason_to_drop(episode(make, turns, correct=correct, **fields), calls_of)
    assert (reason in found) if reason else (found == "")


def test_what_is_kept_keeps_its_order(make):
    episodes = [
        episode(make, turns, id=str(i), correct=False) for i, turns in enumerate([PLAIN, ("done",), PLAIN])
    ]
    kept, dropped = curate(episodes, calls_of)
    assert [t.id for t in kept] == ["0", "2"]
    assert dropped == {"1": "is wrong, after 0 calls (fewer than 1)"}


def test_a_turn_that_was_taken_back_is_not_counted(make):
    """It is not in the conversation, so nobody learns it."""
    whole = episode(make, ("A", "A", "A", "A", "done"), correct=False)
    assert "4 times" in reason_to_drop(whole, calls_of)
    last = whole.turns[-1]
    turns = (*whole.turns[:-1], type(last)(last.segment, (0, 1, 2)))
    assert reason_to_drop(make(segments=whole.segments, turns=turns, correct=False), calls_of) == ""
