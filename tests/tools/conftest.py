"""The little network of net.py, servers on loopback as if they were on the web, and a sandbox that tests share."""

import pytest
from net import Net
from sandboxed import Box

from mirothinker_jax.tools import guard


@pytest.fixture
def net(monkeypatch):
    return Net(monkeypatch)


@pytest.fixture
def loopback_is_public(monkeypatch):
    monkeypatch.setattr(guard, "is_public", lambda address: True)
    monkeypatch.setattr(guard, "is_this_machine", lambda family, address: False)


@pytest.fixture(scope="module")
def box():
    box = Box()
    yield box
    box.close()
