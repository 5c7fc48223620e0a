"""The sandboxes of all episodes: each has its own, which nobody else can name and which end with it.

So many at once as the settings say. Where another is wanted, the one that was not used for longest gives way, but
never one in use; those that nobody used for their time go first. Idle ones are looked for when one is asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from mirothinker_jax.tools.sandbox_interface import Sandbox, SandboxDied, SandboxFailed

DEFAULT = "default"  # the sandbox of calls that name none: made when it is first used
IDLE_S = 600.0
_Key = tuple[str, str]  # episode, name


@dataclass
class _Place:
    """Of a sandbox, from when it is first wanted."""

    starting: asyncio.Future[Sandbox]
    idle_s: float
    users: int = 0
    used: float = field(default_factory=time.monotonic)

    @property
    def dead(self) -> bool:
        started = self.starting.done() and not self.starting.cancelled() and self.starting.exception() is None
        return started and not self.starting.result().alive


class SandboxPool:
    """Keeps at most `most` of the sandboxes that `create(seconds of life)` makes."""

    def __init__(self, create: Callable[[float], Awaitable[Sandbox]], most: int):
        self._create, self._most = create, most
        self._places: OrderedDict[_Key, _Place] = OrderedDict()

    async def create(self, episode: str, name: str, idle_s: float) -> None:
        """Makes a sandbox of that name; one that was there under it ends.

        Raises:
          SandboxFailed: it cannot be started, or there are too many in use.
        """
        if (episode, name) in self._places:
            await self._end([(episode, name)])
        async with self._place((episode, name), idle_s):
            pass

    @contextlib.asynccontextmanager
    async def use(self, episode: str, name: str) -> AsyncIterator[Sandbox]:
        """The sandbox of that name, kept from ending until the block does. One that died in it is forgotten.

        Raises:
          SandboxDied: there is none of that name.
          SandboxFailed: as `create`.
        """
        key = (episode, name)
        if key in self._places and self._places[key].dead:
            await self._end([key])
        if name != DEFAULT and key not in self._places:
            raise SandboxDied(
                f"there is no sandbox {name!r}: it ended, or there never was one; create one with create_sandbox, "
                "or leave sandbox_id out"
            )
        async with self._place(key, IDLE_S) as sandbox:
            try:
                yield sandbox
            except SandboxDied:
                await asyncio.shield(self._end([key]))
                raise

    @contextlib.asynccontextmanager
    async def _place(self, key: _Key, idle_s: float) -> AsyncIterator[Sandbox]:
        place = self._places.get(key)
        if place is None:
            gone = self._surplus(key)
            # Taken before anything is waited for: calls beside this one share the sandbox.
            place = self._places[key] = _Place(asyncio.ensure_future(self._start(gone, idle_s)), idle_s)
        self._places.move_to_end(key)
        place.users += 1
        try:
            try:
                sandbox = await asyncio.shield(place.starting)
            except SandboxFailed:
                if self._places.get(key) is place:
                    del self._places[key]
                raise
            yield sandbox
        finally:
            place.users -= 1
            place.used = time.monotonic()

    async def _start(self, gone: list[_Place], idle_s: float) -> Sandbox:
        await _kill(gone)
        return await self._create(idle_s)

    def _surplus(self, wanted: _Key) -> list[_Place]:
        """Takes out the places of idle sandboxes, and of one more if there is no room. Raises SandboxFailed."""
        now = time.monotonic()
        unused = [key for key, place in self._places.items() if not place.users and key != wanted]
        keys = [key for key in unused if now - self._places[key].used > self._places[key].idle_s]
        if len(self._places) - len(keys) >= self._most:
            if len(keys) == len(unused):
                raise SandboxFailed(f"all {self._most} sandboxes (tools.sandboxes) are in use")
            keys.append(next(key for key in unused if key not in keys))
        return [self._places.pop(key) for key in keys]

    async def end(self, episode: str) -> None:
        """Ends all sandboxes of the episode, also those in use."""
        await self._end([key for key in self._places if key[0] == episode])

    async def aclose(self) -> None:
        """Ends all of them. The pool may be used again."""
        await self._end(list(self._places))

    async def _end(self, keys: list[_Key]) -> None:
        await _kill([place for key in keys if (place := self._places.pop(key, None)) is not None])


async def _kill(places: list[_Place]) -> None:
    async def kill(place: _Place) -> None:
        with contextlib.suppress(SandboxFailed):
            await (await place.starting).kill()

    await asyncio.gather(*[kill(place) for place in places])
