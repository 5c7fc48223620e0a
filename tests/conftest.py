"""What every test runs under: 8 fake CPU devices, strict dtypes and ranks, and hypothesis without chance.

The environment is set before the first import of jax, which reads it once.
"""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()
)

import hypothesis
import jax
import pytest
from absl import flags

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

hypothesis.settings.register_profile("deterministic", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("deterministic")

if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()  # grain reads absl's flags


@pytest.fixture
def relaxed_promotion():
    """For tests that call a third-party library whose own arithmetic mixes dtypes or ranks."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
