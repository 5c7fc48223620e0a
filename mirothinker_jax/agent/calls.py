"""The calls of one turn: neighbours run at the same time where their tools allow it, the others one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Protocol

from mirothinker_jax.agent.wire.turn import Malformed
from mirothinker_jax.tools.spec import ToolCall, ToolResult

Numbered = tuple[str, ToolCall | Malformed]  # (request id, call)


class Executor(Protocol):
    """Whoever makes the calls (tools/executor.py, or a record of them)."""

    async def begin(self, episode: str, files: Sequence[str]) -> None:
        """Before the first turn: tools that keep something for an episode make it, and get the task's `files`.

        Raises ToolError where one cannot.
        """
        ...

    async def end(self, episode: str) -> None:
        """After the last turn, also of an episode that did not begin or was cancelled: what was kept goes."""
        ...

    def concurrent(self, call: ToolCall) -> bool:
        """Whether the call may run at the same time as others of its turn."""
        ...

    def changes(self, call: ToolCall) -> bool:
        """Whether the call may change something that lasts, such as a sandbox."""
        ...

    async def execute(self, call: ToolCall, request_id: str) -> ToolResult: ...


class WrappedExecutor:
    """An executor that does what the one inside does, for others to change a part of it."""

    def __init__(self, executor: Executor):
        self._executor = executor

    async def begin(self, episode: str, files: Sequence[str]) -> None:
        """As the executor inside."""
        await self._executor.begin(episode, files)

    async def end(self, episode: str) -> None:
        """As the executor inside."""
        await self._executor.end(episode)

    def concurrent(self, call: ToolCall) -> bool:
        """As the executor inside."""
        return self._executor.concurrent(call)

    def changes(self, call: ToolCall) -> bool:
        """As the executor inside."""
        return self._executor.changes(call)

    async def execute(self, call: ToolCall, request_id: str) -> ToolResult:
        """As the executor inside."""
        return await self._executor.execute(call, request_id)


def batches(calls: Sequence[Numbered], executor: Executor) -> Iterator[list[Numbered]]:
    """The calls in their order, those together that may run together. A malformed call runs nothing."""
    batch: list[Numbered] = []
    for request_id, call in calls:
        alone = not isinstance(call, Malformed) and not executor.concurrent(call)
        if alone and batch:
            yield batch
            batch = []
        batch.append((request_id, call))
        if alone:
            yield batch
            batch = []
    if batch:
        yield batch


async def results(batch: Sequence[Numbered], executor: Executor) -> list[ToolResult | Malformed]:
    """What became of each call of a batch, in its order. When the caller is cancelled, so are all."""

    async def one(request_id: str, call: ToolCall | Malformed) -> ToolResult | Malformed:
        return call if isinstance(call, Malformed) else await executor.execute(call, request_id)

    if len(batch) == 1:
        return [await one(*batch[0])]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(*numbered)) for numbered in batch]
    return [task.result() for task in tasks]
