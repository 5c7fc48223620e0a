"""Trajectories of a few tokens, as episodes leave them."""

import pytest
from stretches import PROMPT, segment

from mirothinker_jax.trajectory.types import Source, Stop, Trajectory, TurnContext


@pytest.fixture
def make():
    """A trajectory: prompt 1 2 3, turn 10 11, observation 4 5, turn 12; fields can be set."""

    def trajectory(id="t0", question_id="q0", **fields):
        segments = (
            PROMPT,
            segment(Source.POLICY, (10, 11), "call", (-0.5, -0.25)),
            segment(Source.OBSERVATION, (4, 5), "result"),
            segment(Source.POLICY, (12,), "answer", (-1.25,)),
        )
        given = dict(
            question="where is KTM?",
            expected="Kathmandu",
            answer="Kathmandu",
            stop=Stop.ANSWERED,
            calls=1,
            failed_calls=0,
            malformed_calls=0,
            segments=segments,
        )
        given |= fields
        turns = [i for i, s in enumerate(given["segments"]) if s.source is Source.POLICY]
        given.setdefault("turns", tuple(TurnContext(i, tuple(range(i))) for i in turns))
        return Trajectory(id=id, question_id=question_id, **given)

    return trajectory
