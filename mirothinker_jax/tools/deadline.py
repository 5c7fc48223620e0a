"""What a tool does, over at its deadline whatever that is.

It runs in a task of its own. At the deadline it is cancelled and has a moment to clean up (sandbox.py kills its
processes then). One that swallows the cancellation is left to itself, kept in sight and cancelled again at the end.
Not safe from a tool that blocks the event loop: such work belongs in `asyncio.to_thread` or a process.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from mirothinker_jax.tools.spec import Failure, ToolError

logger = logging.getLogger(__name__)

MESSAGE_CHARS = 300  # of an error that a tool did not phrase itself
_GRACE_S = 5.0  # to clean up after a cancellation

T = TypeVar("T")


class Deadlines:
    """Runs what tools do and knows what does not end."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    async def run(
        self, work: Callable[[], Awaitable[T]], name: str, seconds: float, deadline_s: float | None = None
    ) -> T:
        """What `work` comes to.

        Args:
          name: says in the log whose work it is.
          seconds: that are left of `deadline_s`; None: all of them.

        Raises:
          ToolError: whatever else the tool does, or no end of it in time.
        """
        task = asyncio.create_task(_outcome(work, name), name=name)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        try:
            await asyncio.wait({task}, timeout=seconds)
        finally:  # also when the caller is cancelled
            in_time = task.done()
            if not in_time:
                await _end({task})
        if not in_time:
            raise ToolError(Failure.DEADLINE, f"no result within {deadline_s or seconds:g} s")
        if task.cancelled():
            raise ToolError(Failure.TOOL_ERROR, "the tool cancelled itself")
        outcome = task.result()
        if isinstance(outcome, ToolError):
            raise outcome
        return outcome

    async def aclose(self) -> None:
        """Cancels what still runs. A task that does not end even now is an error in the log."""
        await _end(set(self._running))


async def _end(tasks: set[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        _, stuck = await asyncio.wait(tasks, timeout=_GRACE_S)
        for task in stuck:
            logger.error("%s goes on %g s after it was cancelled", task.get_name(), _GRACE_S)


async def _outcome(work: Callable[[], Awaitable[T]], name: str) -> T | ToolError:
    try:
        return await work()
    except ToolError as error:
        return error
    except (asyncio.CancelledError, KeyboardInterrupt):
        raise
    except BaseException as error:  # SystemExit or GeneratorExit of a user's tool must not end the run
        logger.warning("%s failed", name, exc_info=True)
        return ToolError(Failure.TOOL_ERROR, _description(error)[:MESSAGE_CHARS])


def _description(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # of the error's own __str__
        return type(error).__name__
