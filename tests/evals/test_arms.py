"""What is read off series of episodes."""

import pytest

from mirothinker_jax.evals.arms import deeper_half
from mirothinker_jax.trajectory.types import Segment, Source, Stop, Trajectory


def episode(question, hops, calls, correct):
    fields = {"failed_calls": 0, "malformed_calls": 0, "metadata": {"hops": hops}}
    prompt = (Segment(Source.PROMPT, (1,), (("user", "?"),)),)
    return Trajectory(
        question, question, "?", "", None, Stop.ANSWERED, calls, segments=prompt, correct=correct, **fields
    )


def test_calls_of_the_deeper_half_are_compared_by_question():
    sft = [episode(f"q{n}", n, n, n < 3) for n in range(7)]
    grpo = [episode(f"q{n}", n, n + 2, True) for n in range(7)]
    unjudged = episode("q9", 9, 50, None)
    found = deeper_half({"sft": [*sft, unjudged], "grpo": grpo}, lambda t: t.calls // 2)
    assert found["links"] == [4, 6]
    assert {s: (f["n"], f["mean"], f["calls"], f["calls_on_way"]) for s, f in found["stages"].items()} == {
        "sft": (3, 0.0, 5.0, 7 / 3),
        "grpo": (3, 1.0, 7.0, 10 / 3),
    }
    assert found["more_calls_on_way"]["mean"] == 1.0
    more = found["more_calls"]
    assert (more["mean"], more["low"], more["high"]) == (2.0, 2.0, 2.0)
    assert more["p"] == pytest.approx(0.25, abs=0.02)  # three signs that are alike: two of eight
    assert more["p_holm"] == pytest.approx(0.5, abs=0.04)
    for nothing in ({"sft": sft}, {"sft": sft, "grpo": []}, {}):
        assert deeper_half(nothing, lambda t: t.calls) == {}
