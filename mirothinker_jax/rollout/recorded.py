"""An episode's engine and tools, with the journal between: what it holds is answered from it, the rest is done and
kept.

The agent's loop decides by nothing but turns and results, so an episode that is run again from the start comes to
where it was left: after a kill, and when it is tried again because a service of ours was down. A turn is known by all
that it was sampled from, a result by its place and by what was asked; whatever differs is done anew. A failure of ours
is never taken from the journal, as what was down may be up again. What a call changed in a sandbox is gone with the
process, so the calls of such an episode are all made again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence

import numpy as np

from mirothinker_jax.agent.calls import Executor
from mirothinker_jax.agent.policy import Engine, Request, Turn
from mirothinker_jax.tools.recording import call_key
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
        self._versions: set[int] = set()

    def oldest_version(self, unknown: int) -> int:
        """Of the policies that sampled the turns; `unknown` where the engine does not tell them."""
        return min(self._versions, default=unknown)

    async def generate(self, request: Request) -> Turn:
        number, self._number = self._number, self._number + 1
        context = context_digest(request)
        turn = self._known.turns.get(context)
        if turn is None:
            turn = await self._engine.generate(request)
            self._journal.turn(self._episode, number, context, turn, self._decode(turn.tokens))
            self._known.turns[context] = turn
        self._versions.update(turn.versions)
        return turn

    def forget(self, session: str) -> None:
        self._engine.forget(session)


class RecordedExecutor:
    """The tools of one try of an episode."""

    def __init__(self, executor: Executor, journal: Journal, episode: str, known: Unfinished):
        self._executor, self._journal, self._episode, self._known = executor, journal, episode, known
        self._answers: dict[tuple[str, str], ToolResult] = {}  # by place and digest
        for request, fields in known.calls.items():
            with contextlib.suppress(KeyError, ValueError):  # another version's
                result = read_result(fields)
                if not (result.failure and result.failure.infrastructure):
                    self._answers[_place(request), fields["asked"]] = result

    def concurrent(self, call: ToolCall) -> bool:
        return self._executor.concurrent(call)

    async def execute(self, call: ToolCall, request_id: str) -> ToolResult:
        asked = call_digest(call)
        if (known := self._answers.get((_place(request_id), asked))) is not None:
            return known
        self._journal.ask(self._episode, request_id, call.server, call.tool)
        result = await self._executor.execute(call, request_id)
        fields = {"server": call.server, "tool": call.tool, "asked": asked} | vars(result)
        fields["changes"] = self._executor.changes(call)
        self._journal.call(self._episode, request_id, fields)
        self._known.calls[request_id] = fields
        return result

    def changes(self, call: ToolCall) -> bool:
        return self._executor.changes(call)

    async def begin(self, episode: str, files: Sequence[str] = ()) -> None:
        await self._executor.begin(episode, files)

    async def end(self, episode: str) -> None:
        await self._executor.end(episode)


def without_lost(known: Unfinished) -> Unfinished:
    """What still counts of an episode that begins again: no result, where a call changed what is gone since."""
    return (
        Unfinished(known.turns) if any(call.get("changes", True) for call in known.calls.values()) else known
    )


def read_result(fields: dict) -> ToolResult:
    """The result of a call from its fields in a journal."""
    result = ToolResult(**{field.name: fields[field.name] for field in dataclasses.fields(ToolResult)})
    return dataclasses.replace(result, failure=result.failure and Failure(result.failure))


def context_digest(request: Request) -> str:
    """Sixteen hexadecimal digits of what a turn was sampled in, and how."""
    said = np.asarray(request.ids, np.int32).tobytes()
    how = (request.max_tokens, request.seed, dataclasses.astuple(request.sampling))
    return hashlib.blake2b(said + repr(how).encode(), digest_size=8).hexdigest()


def call_digest(call: ToolCall) -> str:
    """Sixteen hexadecimal digits of what is asked of whom."""
    said = json.dumps(call_key(call, "")[1:], sort_keys=True)
    return hashlib.blake2b(said.encode(), digest_size=8).hexdigest()


def _place(request: str) -> str:
    """ "TURN.CALL" of a request id, which is the same in every try of an episode."""
    return request.rpartition(":")[2]
