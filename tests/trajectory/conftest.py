"""Trajectories of a few tokens, as episodes leave them."""

import pytest

from mirothinker_jax.trajectory.types import Segment, Source, Stop, Trajectory

PROMPT = Segment(Source.PROMPT, (1, 2, 3), (("user", "where is KTM?"),))


@pytest.fixture
def make():
    """A trajectory: prompt 1 2 3, turn 10 11, observation 4 5, turn 12; fields can be set."""

    def trajectory(id="t0", question_id="q0", **fields):
        segments = (
            PROMPT,
            Segment(Source.POLICY, (10, 11), (("assistant", "call"),), (-0.5, -0.25)),
            Segment(Source.OBSERVATION, (4, 5), (("tool", "result"),)),
            Segment(Source.POLICY, (12,), (("assistant", "answer"),), (-1.25,)),
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
        return Trajectory(id=id, question_id=question_id, **(given | fields))

    return trajectory
