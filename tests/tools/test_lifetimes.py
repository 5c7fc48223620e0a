"""Tools that keep something for an episode and misbehave when it begins, when it ends, or with the run."""

import asyncio

import pytest
from virtual_time import run

from mirothinker_jax.config import ToolsConfig
from mirothinker_jax.tools.executor import ToolExecutor
from mirothinker_jax.tools.spec import Failure, ToolError, ToolSpec


class Keeping:
    """Keeps an episode from its beginning to its end; each of these does first what `behave` says."""

    def __init__(self, name, behave=None, at=""):
        self.spec = ToolSpec("s", name, "a tool", {"type": "object"})
        self.kept, self.closed, self._behave, self._at = set(), False, behave, at

    async def _do(self, what):
        if what == self._at:
            await self._behave()

    async def begin(self, episode, files):
        self.kept.add(episode)
        await self._do("begin")

    async def end(self, episode):
        await self._do("end")
        self.kept.discard(episode)

    async def aclose(self):
        await self._do("aclose")
        self.closed = True


async def hang():
    await asyncio.sleep(1e9)


async def deaf():
    try:
        await asyncio.sleep(1e9)
    except asyncio.CancelledError:
        await asyncio.sleep(1e9)


async def crash():
    raise RuntimeError("no room")


async def leave():
    raise SystemExit(3)


def opened(*tools):
    return ToolExecutor(tools, ToolsConfig(deadline_s=10.0), lambda text, most: (text, False))


@pytest.mark.parametrize(
    ("behave", "seconds", "text"),
    [
        (hang, 10, "within 10 s"),
        (deaf, 15, "within 10 s"),
        (crash, 0, "no room"),
        (leave, 0, "SystemExit: 3"),
    ],
)
def test_a_beginning_that_fails_breaks_its_episode_alone(behave, seconds, text):
    async def main():
        async with opened(Keeping("bad", behave, "begin")) as executor:
            with pytest.raises(ToolError, match=rf"^bad cannot begin an episode: .*{text}") as error:
                await executor.begin("e", ())
            return error.value.failure, asyncio.get_running_loop().time()

    assert run(main()) == (Failure.NETWORK, seconds)


@pytest.mark.parametrize("behave", [hang, deaf, crash, leave])
def test_an_end_that_fails_keeps_the_others_from_nothing(behave, caplog):
    async def main():
        good = [Keeping("first"), Keeping("last")]
        async with opened(good[0], Keeping("bad", behave, "end"), good[1]) as executor:
            await executor.begin("e", ())
            await executor.end("e")
            assert [tool.kept for tool in good] == [set(), set()]
            assert asyncio.get_running_loop().time() <= 15
        assert all(tool.closed for tool in good)

    run(main())
    assert "bad did not end episode e: " in caplog.text


def test_an_end_comes_to_its_end_where_the_episode_is_cancelled():
    async def rest():
        await asyncio.sleep(3)

    async def main():
        slow = Keeping("slow", rest, "end")
        async with opened(slow) as executor:
            await executor.begin("e", ())
            ending = asyncio.create_task(executor.end("e"))
            await asyncio.sleep(1)
            ending.cancel()
            await asyncio.wait([ending])
            assert ending.cancelled() and slow.kept == set() and asyncio.get_running_loop().time() == 3

    run(main())


@pytest.mark.parametrize("behave", [hang, crash])
def test_all_tools_are_closed(behave, caplog):
    bad, good = Keeping("bad", behave, "aclose"), Keeping("good")

    async def main():
        async with opened(bad, good):
            pass

    run(main())
    assert good.closed and "bad did not close" in caplog.text
