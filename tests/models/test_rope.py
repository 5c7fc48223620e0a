"""Rotary embedding: scores know relative positions only, and the angles are the paper's."""

import jax.numpy as jnp
import numpy as np
import pytest

from mirothinker_jax.config import YarnConfig
from mirothinker_jax.models.rope import rotate, rotation

SIZE = 16
PLAIN = YarnConfig()


def scores(query_positions, key_positions, theta=1e4):
    """Dot products [T, T] of the same random vectors at these positions."""
    rng = np.random.default_rng(0)
    length = len(query_positions)
    q, k = (jnp.asarray(rng.normal(size=(1, length, 1, SIZE)), jnp.float32) for _ in range(2))

    def at(x, positions):
        return rotate(x, *rotation(jnp.asarray(positions, jnp.int32)[None], SIZE, theta, PLAIN))[0, :, 0]

    return at(q, query_positions) @ at(k, key_positions).T


@pytest.mark.parametrize("offset", [1, 17, 1000])
def test_scores_depend_on_relative_positions_only(offset):
    positions = np.asarray([0, 1, 2, 5, 11])
    np.testing.assert_allclose(
        scores(positions + offset, positions + offset), scores(positions, positions), atol=2e-4
    )


def test_scores_depend_on_relative_positions_at_all():
    positions = np.arange(5)
    assert np.abs(scores(positions, positions) - scores(positions, positions + 1)).max() > 0.1


def test_position_zero_changes_nothing_and_length_is_kept():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(1, 3, 2, SIZE)), jnp.float32)
    positions = jnp.asarray([[0, 7, 900]], jnp.int32)
    turned = rotate(x, *rotation(positions, SIZE, 1e6, PLAIN))
    np.testing.assert_array_equal(turned[0, 0], x[0, 0])
    np.testing.assert_allclose(jnp.linalg.norm(turned, axis=-1), jnp.linalg.norm(x, axis=-1), rtol=1e-6)


def test_angles_in_the_half_split_layout():
    """Dim i turns with dim i + E/2, by position · theta^(−2i/E)."""
    x = jnp.zeros((1, 1, 1, 4), jnp.float32).at[..., 0].set(1.0).at[..., 1].set(1.0)
    turned = rotate(x, *rotation(jnp.asarray([[3]], jnp.int32), 4, 100.0, PLAIN))[0, 0, 0]
    expected = [np.cos(3), np.cos(3 * 0.1), np.sin(3), np.sin(3 * 0.1)]
    np.testing.assert_allclose(turned, expected, rtol=1e-6)


def test_bfloat16_is_turned_in_float32():
    x = jnp.asarray(np.random.default_rng(2).normal(size=(1, 2, 1, SIZE)), jnp.bfloat16)
    angles = rotation(jnp.asarray([[5, 99]], jnp.int32), SIZE, 1e4, PLAIN)
    turned = rotate(x, *angles)
    assert turned.dtype == jnp.bfloat16
    np.testing.assert_array_equal(turned, rotate(x.astype(jnp.float32), *angles).astype(jnp.bfloat16))
