"""Settings of groups that are sampled ahead: those that make no sense are refused by name."""

import pytest

from mirothinker_jax.config import ConfigError, GRPOConfig

AHEAD = {"staleness": 1, "loss": "clip"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"staleness": -1}, r"grpo\.staleness is -1; it must be ≥ 0"),
        ({"window": 0}, r"grpo\.window is 0; it must be ≥ 1"),
        ({"refill": -2}, r"grpo\.refill is -2; it must be ≥ 0"),
        ({"group_deadline_s": -1.0}, r"grpo\.group_deadline_s is -1\.0; it must be ≥ 0"),
        (
            {"window": 4},
            r"grpo\.window is 4 with grpo\.staleness 0, where a step waits for all its groups; set",
        ),
        (
            {"staleness": 1},
            r"grpo\.staleness is 1 with grpo\.loss 'reinforce', grpo\.ratio_to 'sampler' and no grpo\.sampler_corr",
        ),
        (
            AHEAD | {"ratio_to": "start"},
            r"grpo\.loss 'clip', grpo\.ratio_to 'start' and no grpo\.sampler_correction: nothing would correct",
        ),
        (
            {"group_deadline_s": 60.0, "min_group": 4},
            r"grpo\.group_deadline_s is 60 with grpo\.staleness 0: episodes that are not done at the deadline go on",
        ),
        (
            AHEAD | {"min_group": 4},
            r"grpo\.group_deadline_s is 0 and grpo\.min_group 4; give both or neither",
        ),
        (AHEAD | {"group_deadline_s": 60.0}, r"is 60 and grpo\.min_group 0; give both or neither"),
        (
            AHEAD | {"group_deadline_s": 60.0, "min_group": 8},
            r"grpo\.min_group is 8; give 2 ≤ n < grpo\.group \(8\)",
        ),
        (
            AHEAD | {"replay_routes": True},
            r"grpo\.staleness is 1 with grpo\.replay_routes: an episode that goes on",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        GRPOConfig(**settings)


def test_what_does_is_not():
    assert not GRPOConfig().streamed
    assert GRPOConfig(refill=2).streamed
    assert GRPOConfig(staleness=1, sampler_correction="tis").streamed
    assert GRPOConfig(**AHEAD, ratio_to="start", sampler_correction="tis").streamed
    assert GRPOConfig(**AHEAD, window=5, refill=2, group_deadline_s=60.0, min_group=6).streamed
