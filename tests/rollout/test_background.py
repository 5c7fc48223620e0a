"""The thread beside the trainer's: what goes wrong on it is said, and nobody waits for what will not come."""

import asyncio
import contextlib

import pytest

from mirothinker_jax.rollout.background import Background
from mirothinker_jax.tools.counters import Counters


class Groups:
    def __init__(self, fails=None):
        self.fails, self.closed = fails, 0

    async def next(self, step, params):
        await asyncio.sleep(0)
        return [[step]], {"asked": float(params)}

    async def aclose(self):
        self.closed += 1
        if self.fails is not None:
            raise self.fails


@contextlib.asynccontextmanager
async def engine():
    yield None


@pytest.fixture
def runner():
    with asyncio.Runner() as runner:
        yield runner


def test_groups_come_from_the_thread_until_it_is_closed(runner):
    groups = Groups()
    stream = Background(runner, engine, lambda _: groups, Counters())
    found, figures = stream.next(3, 7)
    assert found == [[3]] and figures["asked"] == 7.0 and figures["tools/calls"] == 0
    stream.close()
    stream.close()
    assert groups.closed == 1


def test_what_ending_raises_is_raised(runner):
    """A full disk, when the journals are closed."""
    stream = Background(runner, engine, lambda _: Groups(OSError(28, "No space left on device")), Counters())
    with pytest.raises(OSError, match="No space left"):
        stream.close()


def test_who_cannot_begin_says_so(runner):
    def make(_):
        raise ValueError("the log is damaged")

    with pytest.raises(ValueError, match="the log is damaged"):
        Background(runner, engine, make, Counters())
    runner.close()
    with pytest.raises(RuntimeError, match="Runner is closed"):
        Background(runner, engine, lambda _: Groups(), Counters())


def test_groups_of_a_thread_that_has_ended_are_not_waited_for(runner):
    """Whatever ended it."""
    stream = Background(runner, engine, lambda _: Groups(), Counters())

    def end():
        raise SystemExit(3)

    stream._loop.call_soon_threadsafe(end)
    with pytest.raises(RuntimeError, match="the thread that samples has ended"):
        while True:
            stream.next(0, 0)
