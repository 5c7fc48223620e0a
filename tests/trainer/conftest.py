"""A tiny training job."""

import dataclasses

import pytest
import tiny
from numbered import CONFIG, IDENTITY, TRAINING

from mirothinker_jax.models.spec import ModelSpec
from mirothinker_jax.objectives.sft import sft
from mirothinker_jax.trainer.loop import Job
from mirothinker_jax.trainer.metrics import MetricsLog


@pytest.fixture(scope="session")
def model():
    return ModelSpec.build(tiny.QWEN3, tiny.VOCAB, tiny.mesh())


@pytest.fixture
def job(tmp_path, model):
    """(source, …fields of Job and TrainingConfig) → a Job in a folder of this test, with an open log."""
    logs = []

    def make(source, folder="run", training=None, **fields):
        log = MetricsLog(tmp_path / folder, enabled=True)
        logs.append(log)
        given = dict(
            stage="sft",
            folder=tmp_path / folder / "sft",
            training=dataclasses.replace(TRAINING, **(training or {})),
            model=model,
            initial=lambda: tiny.params(tiny.QWEN3),
            source=source,
            objective=sft,
            log=log,
            identity=IDENTITY,
            config=CONFIG,
        )
        return Job(**(given | fields))

    yield make
    for log in logs:
        log.close()
