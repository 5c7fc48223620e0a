"""The little network of net.py."""

import pytest
from net import Net


@pytest.fixture
def net(monkeypatch):
    return Net(monkeypatch)
