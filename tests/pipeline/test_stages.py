"""Steps for epochs."""

import pytest

from mirothinker_jax.config import TrainingConfig
from mirothinker_jax.pipeline.stages import with_steps


@pytest.mark.parametrize(
    ("epochs", "batches", "steps"), [(3.0, 2.5, 8), (1.0, 4.0, 4), (1.1, 10.0, 11), (0.01, 3.0, 1)]
)
def test_epochs_are_rounded_up_to_whole_steps(epochs, batches, steps):
    settings = with_steps(TrainingConfig(steps=0, epochs=epochs, batch_size=16), lambda: batches)
    assert settings == TrainingConfig(steps=steps, batch_size=16)


def test_steps_that_are_given_need_no_epoch_to_be_measured():
    settings = TrainingConfig(steps=7)
    assert with_steps(settings, lambda: pytest.fail("measured")) is settings
