"""One small world and one server process for all tests of the folder."""

import dataclasses

import pytest

from mirothinker_jax.config import WorldConfig
from mirothinker_jax.world.facts import load_world
from mirothinker_jax.world.server import WorldServer

_SMALL = WorldConfig(max_entities=600, dead_link=0.2, slow_s=0.01)
_SEED = 3


@pytest.fixture(scope="session")
def seed():
    return _SEED


@pytest.fixture(scope="session")
def noisy():
    return _SMALL


@pytest.fixture(scope="session")
def quiet():
    return dataclasses.replace(_SMALL, wrong_first_hit=0.0, dead_link=0.0, failing_call=0.0, slow_call=0.0)


@pytest.fixture(scope="session")
def world():
    return load_world(_SMALL, _SEED)


@pytest.fixture(scope="session")
def noisy_server(noisy, seed):
    with WorldServer(noisy, seed) as server:
        yield server


@pytest.fixture(scope="session")
def quiet_server(quiet, seed):
    with WorldServer(quiet, seed) as server:
        yield server
