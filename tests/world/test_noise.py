"""Noise has the rates asked for and depends on nothing but its inputs."""

import math

from mirothinker_jax.config import WorldConfig
from mirothinker_jax.world.noise import Noise, share

SETTINGS = WorldConfig(wrong_first_hit=0.2, dead_link=0.03, failing_call=0.05, slow_call=0.01)
TRIALS = 20_000


def within(count, rate, trials=TRIALS):
    """Five standard deviations of a binomial."""
    return abs(count - rate * trials) < 5 * math.sqrt(trials * rate * (1 - rate))


def test_rates():
    noise = Noise(SETTINGS, seed=0)
    requests = [(f"q{i % 700}", f"r{i}") for i in range(TRIALS)]
    assert within(sum(noise.failing(*r) for r in requests), 0.05)
    assert within(sum(noise.slow(*r) for r in requests), 0.01)
    assert within(sum(noise.wrong_first(*r) for r in requests), 0.2)
    assert within(sum(noise.dead(f"e{i}") for i in range(TRIALS)), 0.03)
    picks = [noise.pick(4, *r) for r in requests]
    assert set(picks) == {0, 1, 2, 3}
    assert all(within(picks.count(i), 0.25) for i in range(4))


def test_rates_of_zero_and_one():
    never = Noise(WorldConfig(wrong_first_hit=0, dead_link=0, failing_call=0, slow_call=0), seed=0)
    always = Noise(WorldConfig(wrong_first_hit=1, dead_link=1, failing_call=1, slow_call=1), seed=0)
    for i in range(200):
        assert not (never.failing("u", str(i)) or never.slow("u", str(i)) or never.dead(str(i)))
        assert always.failing("u", str(i)) and always.wrong_first("u", str(i)) and always.dead(str(i))


def test_same_inputs_same_noise_in_any_order():
    requests = [("u", str(i)) for i in range(500)]
    forward = [Noise(SETTINGS, 7).failing(*r) for r in requests]
    backward = [Noise(SETTINGS, 7).failing(*r) for r in reversed(requests)]
    assert forward == backward[::-1]
    assert forward != [Noise(SETTINGS, 8).failing(*r) for r in requests]


def test_a_retry_can_succeed_and_kinds_are_independent():
    noise = Noise(SETTINGS, 0)
    failing = [str(i) for i in range(2000) if noise.failing("u", str(i))]
    assert 0 < len(failing) < 2000
    assert within(sum(noise.wrong_first("u", i) for i in failing), 0.2, len(failing))


def test_share_separates_its_parts():
    assert share("ab", "c") != share("a", "bc")
