"""Which sandbox a call gets and when one ends, with sandboxes that cost nothing."""

import asyncio
import contextlib

import pytest

from mirothinker_jax.tools import sandbox_pool
from mirothinker_jax.tools.sandbox_interface import SandboxDied, SandboxFailed
from mirothinker_jax.tools.sandbox_pool import DEFAULT, SandboxPool


class Fake:
    made = 0

    def __init__(self, seconds):
        Fake.made += 1
        self.number, self.seconds, self.alive = Fake.made, seconds, True

    async def kill(self):
        await asyncio.sleep(0)
        self.alive = False


def pool(most=2):
    Fake.made = 0

    async def create(seconds):
        await asyncio.sleep(0)
        return Fake(seconds)

    return SandboxPool(create, most)


async def number(pool, episode, name=DEFAULT):
    async with pool.use(episode, name) as sandbox:
        assert sandbox.alive
        return sandbox.number


def test_the_one_unused_for_longest_gives_way():
    async def main():
        sandboxes = pool()
        return [await number(sandboxes, episode) for episode in "aabbcab"]

    # Two at a time: c takes the place of a, then a that of b, then b that of c.
    assert asyncio.run(main()) == [1, 1, 2, 2, 3, 4, 5]


def test_none_in_use_gives_way():
    async def main():
        sandboxes = pool()
        async with sandboxes.use("a", DEFAULT) as first:
            assert await number(sandboxes, "b") == 2
            assert await number(sandboxes, "c") == 3  # in the place of b, which was used later than a
            async with sandboxes.use("c", DEFAULT):
                with pytest.raises(SandboxFailed, match=r"all 2 sandboxes \(tools\.sandboxes\) are in use"):
                    await number(sandboxes, "d")
            assert first.alive
        assert await number(sandboxes, "d") == 4
        return [key[0] for key in sandboxes._places]

    assert asyncio.run(main()) == ["c", "d"]


def test_idle_ones_end_when_another_is_wanted(monkeypatch):
    now = 0.0
    monkeypatch.setattr(sandbox_pool.time, "monotonic", lambda: now)

    async def main():
        nonlocal now
        sandboxes = pool(most=9)
        await sandboxes.create("a", "short", 10.0)
        await sandboxes.create("a", "long", 1000.0)
        now = 11.0
        await number(sandboxes, "a", "short")  # its own use is never too late
        now = 22.0
        await number(sandboxes, "b")
        with pytest.raises(SandboxDied, match="there is no sandbox 'short'"):
            await number(sandboxes, "a", "short")
        return await number(sandboxes, "a", "long")

    assert asyncio.run(main()) == 2


def test_an_episode_ends_its_own_also_those_in_use():
    async def main():
        sandboxes = pool(most=9)
        await sandboxes.create("a", "s", 10.0)
        async with sandboxes.use("b", DEFAULT) as other, sandboxes.use("a", DEFAULT) as used:
            await sandboxes.end("a")
            assert (used.alive, other.alive) == (False, True)
        await sandboxes.aclose()
        assert not other.alive
        return len(sandboxes._places)

    assert asyncio.run(main()) == 0


def test_one_that_died_is_forgotten():
    async def main():
        sandboxes = pool()
        with contextlib.suppress(SandboxDied):
            async with sandboxes.use("a", DEFAULT):
                raise SandboxDied
        async with sandboxes.use("a", DEFAULT) as second:
            second.alive = False  # between calls
        return second.number, await number(sandboxes, "a")

    assert asyncio.run(main()) == (2, 3)


def test_calls_at_once_share_one_and_its_failure():
    async def fails(seconds):
        Fake.made += 1
        await asyncio.sleep(0)
        raise SandboxFailed("no room")

    async def main():
        sandboxes = pool()
        assert await asyncio.gather(*[number(sandboxes, "a") for _ in range(3)]) == [1, 1, 1]
        sandboxes._create = fails
        outcomes = await asyncio.gather(*[number(sandboxes, "b") for _ in range(3)], return_exceptions=True)
        assert [str(outcome) for outcome in outcomes] == ["no room"] * 3
        assert Fake.made == 2 and [key[0] for key in sandboxes._places] == ["a"]
        await sandboxes.end("b")

    asyncio.run(main())


def test_ending_while_it_starts():
    async def main():
        sandboxes = pool()
        call = asyncio.create_task(number(sandboxes, "a"))
        await asyncio.sleep(0)
        (place,) = sandboxes._places.values()
        await sandboxes.aclose()
        with contextlib.suppress(AssertionError):  # it got a sandbox, dead by now
            await call
        return place.starting.result().alive

    assert asyncio.run(main()) is False
