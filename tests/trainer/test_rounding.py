"""Stochastic rounding: one of the two neighbours, right in the mean."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirothinker_jax.trainer.rounding import round_stochastically

SAMPLES = 1 << 16


@pytest.mark.parametrize("value", [1 + 2**-10, -1 - 2**-10, 3.14159, -1e-20, 1e30])
def test_the_mean_of_what_is_rounded_is_the_number(value):
    exact = jnp.full((SAMPLES,), value, jnp.float32)
    got = round_stochastically([exact], [exact.astype(jnp.bfloat16)], jax.random.key(0))[0]
    assert got.dtype == jnp.bfloat16
    got = np.asarray(got, np.float64)
    low, high = np.unique(got)
    number = float(np.float32(value))
    assert low < number < high
    share = (number - low) / (high - low)
    # Five standard deviations of a mean of so many draws.
    assert abs((got == high).mean() - share) < 5 * np.sqrt(share * (1 - share) / SAMPLES)


def test_what_a_bfloat16_can_hold_stays():
    numbers = jax.random.normal(jax.random.key(1), (1000,), jnp.bfloat16)
    numbers = jnp.concatenate([numbers, jnp.asarray([0.0, -0.0, 2.0**120, -(2.0**-120)], jnp.bfloat16)])
    got = round_stochastically([numbers.astype(jnp.float32)], [numbers], jax.random.key(2))[0]
    np.testing.assert_array_equal(np.asarray(got), np.asarray(numbers))


def test_float32_is_left_alone():
    x = jax.random.normal(jax.random.key(1), (100,))
    np.testing.assert_array_equal(
        np.asarray(round_stochastically({"x": x}, {"x": x}, jax.random.key(2))["x"]), np.asarray(x)
    )
