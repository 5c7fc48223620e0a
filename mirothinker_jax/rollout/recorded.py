"""An episode's engine and tools, with the journal between: what it holds is answered from it, the rest is done and
kept.

The agent's loop decides by nothing but turns and results, so an episode that is run again from the start comes to
where it was left. A turn counts only for the context that it was sampled in; from the first one that differs on,
everything is done anew. What a call changed in a sandbox is gone with the process, so an episode with such calls
begins again.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence

import numpy as np

from mirothinker_jax.agent.calls import Executor
from mirothinker_jax.agent.policy import Engine, Request, Turn
from mirothinker_jax.tools.spec import Failure, ToolCall, ToolResult
from mirothinker_jax.trajectory.journal import Journal, Unfinished


class RecordedEngine:
    """The engine of one episode."""

    def __init__(
        self,
        engine: Engine,
        journal: Journal,
        episode: str,
        known: Unfinished,
        decode: Callable[[Sequence[int]], str],
    ):
        self._engine, self._journal, self._episode, self._known = engine, journal, episode, known
        self._decode, self._number = decode, 0

    async def generate(self, request: Request) -> Turn:
        number, self._number = self._number, self._number + 1
        context = context_digest(request)
        before = self._known.turns.get(number)
        if before is not None and before[0] == context:
            return before[1]
        self._known.turns.clear()
        turn = await self._engine.generate(request)
        self._journal.turn(self._episode, number, context, turn, self._decode(turn.tokens))
        return turn

    def forget(self, session: str) -> None:
        self._engine.forget(session)


class RecordedExecutor:
    """The tools of one episode."""

    def __init__(self, executor: Executor, journal: Journal, episode: str, known: Unfinished):
        self._executor, self._journal, self._episode, self._known = executor, journal, episode, known

    def concurrent(self, call: ToolCall) -> bool:
        return self._executor.concurrent(call)

    async def execute(self, call: ToolCall, request_id: str) -> ToolResult:
        before = self._known.calls.pop(request_id, None)
        if before is not None and (before["server"], before["tool"]) == (call.server, call.tool):
            known = read_result(before)
            if not (known.failure and known.failure.infrastructure):  # what was down may be up again
                return known
        result = await self._executor.execute(call, request_id)
        fields = {"server": call.server, "tool": call.tool, "changes": self._executor.changes(call)}
        self._journal.call(self._episode, request_id, fields | vars(result))
        return result

    def changes(self, call: ToolCall) -> bool:
        return self._executor.changes(call)

    async def begin(self, episode: str, files: Sequence[str] = ()) -> None:
        await self._executor.begin(episode, files)

    async def end(self, episode: str) -> None:
        await self._executor.end(episode)


def can_go_on(known: Unfinished) -> bool:
    """Whether nothing was lost with the process that an unfinished episode ran in."""
    return not any(call["changes"] for call in known.calls.values())


def read_result(fields: dict) -> ToolResult:
    """The result of a call from its fields in a journal."""
    result = ToolResult(**{field.name: fields[field.name] for field in dataclasses.fields(ToolResult)})
    return dataclasses.replace(result, failure=result.failure and Failure(result.failure))


def context_digest(request: Request) -> str:
    """Sixteen hexadecimal digits of what a turn was sampled in, and how."""
    said = np.asarray(request.ids, np.int32).tobytes()
    how = (request.max_tokens, request.seed, dataclasses.astuple(request.sampling))
    return hashlib.blake2b(said + repr(how).encode(), digest_size=8).hexdigest()
