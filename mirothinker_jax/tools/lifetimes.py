"""Tools that keep something for an episode: told that it begins and that it ends, and closed with the executor.

What one of them does wrong there, be it an exception, no end, or a deaf ear for cancellations, costs an episode what a
call may take, and the others nothing.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Sequence

from mirothinker_jax.tools.deadline import MESSAGE_CHARS, Deadlines
from mirothinker_jax.tools.spec import Failure, Tool, ToolError

logger = logging.getLogger(__name__)


_CLOSE_S = 15.0  # at least, whatever a call may take


class Lifetimes:
    """Of the tools of an executor."""

    def __init__(self, tools: Sequence[Tool], deadline_s: float):
        self._tools, self._deadline_s, self._deadlines = tools, deadline_s, Deadlines()

    async def begin(self, episode: str, files: Sequence[str]) -> None:
        """Tells the tools that have `begin`, one after the other, of the episode and its attachments.

        Raises:
          ToolError: one of them cannot; `end` is due all the same.
        """
        for tool in self._tools:
            if (begin := getattr(tool, "begin", None)) is None:
                continue
            name = f"{tool.spec.name} beginning episode {episode}"
            try:
                await self._deadlines.run(functools.partial(begin, episode, files), name, self._deadline_s)
            except ToolError as error:
                text = f"{tool.spec.name} cannot begin an episode: {error}"
                raise ToolError(Failure.NETWORK, text[:MESSAGE_CHARS]) from error

    async def end(self, episode: str) -> None:
        """Tells the tools that have `end`, all at once. It comes to its end also when the caller is cancelled: what
        they keep would stay for ever."""
        found = [(tool, getattr(tool, "end", None)) for tool in self._tools]
        ends = [asyncio.create_task(self._end(tool, end, episode)) for tool, end in found if end is not None]
        if not ends:
            return
        try:
            await asyncio.shield(asyncio.wait(ends))
        except asyncio.CancelledError:
            await asyncio.wait(ends)
            raise

    async def _end(self, tool: Tool, end: Callable[[str], Awaitable[None]], episode: str) -> None:
        name = f"{tool.spec.name} ending episode {episode}"
        try:
            await self._deadlines.run(functools.partial(end, episode), name, self._deadline_s)
        except ToolError as error:
            logger.warning("%s did not end episode %s: %s", tool.spec.name, episode, error)

    async def aclose(self) -> None:
        """Closes all tools, each in its time."""
        await self._deadlines.aclose()
        for tool in self._tools:
            if (close := getattr(tool, "aclose", None)) is None:
                continue
            try:
                # In this task: a connection ends where it began. Cut short, it would leave its process behind.
                async with asyncio.timeout(max(self._deadline_s, _CLOSE_S)):
                    await close()
            except Exception:
                logger.warning("%s did not close", tool.spec.name, exc_info=True)
