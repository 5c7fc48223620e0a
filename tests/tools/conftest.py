"""The little network of net.py, and servers on loopback as if they were on the web."""

import pytest
from net import Net

from mirothinker_jax.tools import guard


@pytest.fixture
def net(monkeypatch):
    return Net(monkeypatch)


@pytest.fixture
def loopback_is_public(monkeypatch):
    monkeypatch.setattr(guard, "is_public", lambda address: True)
    monkeypatch.setattr(guard, "is_this_machine", lambda family, address: False)
