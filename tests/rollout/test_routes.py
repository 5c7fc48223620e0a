"""Routing replay: the experts that a rollout's tokens went to are recorded, and training sends them there again."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny
from turns import episodes, play

from mirothinker_jax.data.packing import Sample, pack_rows
from mirothinker_jax.models.spec import ModelSpec
from mirothinker_jax.trainer.step import forward

LAYERS, CHOICES = tiny.MOE.layers, tiny.MOE.moe.experts_per_token


@pytest.fixture(scope="module")
def recorded(device):
    return play(device("experts"), episodes(8))[0]


def routes(episode):
    """[n, L, k] of an episode's tokens but the last, which is never fed."""
    return np.concatenate([turn.routes for turn in episode.turns])


@pytest.fixture(scope="module")
def batch(recorded):
    unfed = np.full((1, LAYERS, CHOICES), -1, np.int16)
    samples = [Sample(e.tokens, e.trained, routes=np.concatenate([routes(e), unfed])) for e in recorded]
    parts = [pack_rows([s], 64, routes=(LAYERS, CHOICES)) for s in samples]
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)


def chosen(params, batch):
    """What the trainer's routers did, [B, T, L, k]."""
    model = ModelSpec.build(tiny.MOE, tiny.VOCAB, tiny.mesh())
    with jax.set_mesh(model.mesh):
        _, _, routing = jax.jit(lambda p, b: forward(model, p, b))(params, batch)
    return np.moveaxis(np.asarray(routing.chosen), 0, 2)


@pytest.mark.slow
def test_every_token_that_was_fed_has_its_routes(recorded):
    for episode in recorded:
        got = routes(episode)
        assert got.shape == (len(episode.tokens) - 1, LAYERS, CHOICES) and got.dtype == np.int16
        assert all(len(set(k)) == CHOICES for k in got.reshape(-1, CHOICES).tolist())
    assert len(np.unique(np.concatenate([routes(e) for e in recorded]))) == tiny.MOE.moe.experts


def test_they_are_those_of_the_trainer_with_the_same_parameters(batch):
    fed = batch.routes[..., 0, 0] >= 0
    free = chosen(tiny.params(tiny.MOE), dataclasses.replace(batch, routes=None))
    np.testing.assert_array_equal(free[fed], batch.routes[fed])


def test_training_with_other_parameters_follows_them(batch):
    """And the routers choose where nothing is on record: the last token, and padding."""
    other, fed = tiny.params(tiny.MOE, seed=1), batch.routes[..., 0, 0] >= 0
    free = chosen(other, dataclasses.replace(batch, routes=None))
    assert (free[fed] != batch.routes[fed]).mean() > 0.3
    replayed = chosen(other, batch)
    np.testing.assert_array_equal(replayed[fed], batch.routes[fed])
    last = np.nonzero((batch.sequence >= 0) & ~fed)
    np.testing.assert_array_equal(
        replayed[last][:, 0], free[last][:, 0]
    )  # the first layer sees the token alone
