"""The embedding's look-up where devices share the table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirothinker_jax.config import MeshConfig
from mirothinker_jax.models.embedding import look_up
from mirothinker_jax.parallel.mesh import make_mesh
from mirothinker_jax.parallel.sharding import spec

SHAPES = [
    MeshConfig(fsdp=8),
    MeshConfig(fsdp=2, context=4),
    MeshConfig(fsdp=2, context=2, tensor=2),
    MeshConfig(data=2, fsdp=2, tensor=2),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rows_are_cast_and_their_gradients_add_up_in_float32(shape):
    """One token 1,000 times: in bfloat16 a sum of ones ends at 256."""
    mesh = make_mesh(shape, jax.devices()[:8])
    with jax.set_mesh(mesh):
        put = lambda x, *axes: jax.device_put(x, jax.NamedSharding(mesh, spec(*axes)))  # noqa: E731
        table = put(jax.random.normal(jax.random.key(0), (32, 16)), "vocab", "embed")
        tokens = put(jnp.full((8, 128), 5).at[:, -3:].set(jnp.arange(24).reshape(8, 3)), "batch", "length")
        rows, back = jax.jit(lambda t: jax.vjp(lambda t: look_up(t, tokens, jnp.bfloat16), t))(table)
        (gradient,) = jax.jit(back)(jnp.ones_like(rows))
    np.testing.assert_array_equal(rows, np.asarray(table.astype(jnp.bfloat16))[np.asarray(tokens)])
    counts = np.bincount(np.asarray(tokens).ravel(), minlength=32)
    assert gradient.dtype == jnp.float32
    np.testing.assert_array_equal(gradient, np.repeat(counts[:, None], 16, 1))
    assert counts.max() == 1001
