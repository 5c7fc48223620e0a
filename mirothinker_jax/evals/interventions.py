"""What a study does to an episode, as wrappers around whoever makes the calls, and around whoever writes the turns.

Each is a function of the request alone: which episode, which turn, which call. So an episode that was stopped goes on
as it would have gone, whatever was answered from the journal before; and two arms differ in nothing else. Turns are
numbered from 1, and a call's request id is "EPISODE:TURN.CALL", EPISODE with "~N" behind it where it is tried again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from mirothinker_jax.agent.calls import Executor, WrappedExecutor
from mirothinker_jax.agent.policy import Engine, Request, Turn
from mirothinker_jax.tools.spec import ToolCall, ToolResult

FAULTS = ("dead", "wrong", "contradiction")
# (address of a page, what is read on it) → the address of another page on which that can be read; None: there is none
Other = Callable[[str, str], str | None]


def address(request_id: str) -> tuple[str, int]:
    """The episode and the turn of a call.

    >>> address("deep/q:1~2:3.0")
    ('deep/q:1', 3)
    """
    episode, _, place = request_id.rpartition(":")
    return episode.rpartition("~")[0] or episode, int(place.partition(".")[0])


class Silent(WrappedExecutor):
    """Calls are made and nothing comes back: the policy acts, and reasons without feedback."""

    async def execute(self, call: ToolCall, request_id: str) -> ToolResult:
        return ToolResult("")


class Shuffled(WrappedExecutor):
    """Each call gets what another question's episode heard at that turn, the last of it where that was shorter."""

    def __init__(self, executor: Executor, heard: Mapping[str, Sequence[str]]):
        """`heard`: episode → results of the other question's turns, in order."""
        super().__init__(executor)
        self._heard = heard

    async def execute(self, call: ToolCall, request_id: str) -> ToolResult:
        episode, turn = address(request_id)
        results = self._heard[episode]
        return ToolResult(results[min(turn, len(results)) - 1] if results else "")


class Faulty(WrappedExecutor):
    """The page read at turn `turn` goes wrong, by the real web's own answers to other requests.

    dead: a page that is not there (404); wrong: another page; contradiction: the page's heading with another page's
    line, so nothing on it tells that it is wrong.
    """

    def __init__(self, executor: Executor, kind: str, turn: int, other: Other):
        assert kind in FAULTS, kind
        super().__init__(executor)
        self._kind, self._turn, self._other = kind, turn, other

    async def execute(self, call: ToolCall, request_id: str) -> ToolResult:
        right = await super().execute(call, request_id)
        changed = self._changed(call) if self.strikes(call, request_id) else None
        if changed is None or (right.failure is not None and self._kind != "dead"):
            return right
        wrong = await super().execute(changed, request_id)
        if self._kind == "dead":  # the answer names the address that was asked for
            text = wrong.text.replace(str(changed.arguments["url"]), str(call.arguments["url"]))
            return replace(wrong, text=text)
        if self._kind != "contradiction" or wrong.failure is not None:
            return wrong
        heading, line = right.text.partition("\n")[0], wrong.text.partition("\n")[2]
        return replace(right, text=f"{heading}\n{line}")

    def strikes(self, call: ToolCall, request_id: str) -> bool:
        """Whether this is the call."""
        return address(request_id)[1] == self._turn and "url" in call.arguments

    def _changed(self, call: ToolCall) -> ToolCall | None:
        url = str(call.arguments["url"])
        if self._kind == "dead":
            to: str | None = f"{url}-gone"
        else:
            to = self._other(url, str(call.arguments.get("info_to_extract", "")))
        return None if to is None else replace(call, arguments={**call.arguments, "url": to})


class Led:
    """An engine whose first turns of an episode are given; the others are the engine's inside. For episodes that begin
    in the middle of a way, with everything right so far."""

    def __init__(
        self,
        engine: Engine,
        given: Mapping[str, Sequence[str]],
        encode: Callable[[str], Sequence[int]],
        header: Sequence[int],
        end_id: int,
    ):
        """`given`: episode → texts of its first turns. `header`: the tokens that begin an assistant's message."""
        self._engine, self._given, self._encode = engine, given, encode
        self._header, self._end = tuple(header), end_id

    async def generate(self, request: Request) -> Turn:
        """The turn that is due, by how many the context shows."""
        episode = request.session.rpartition("~")[0] or request.session
        given = self._given.get(episode, ())
        place = self._messages(request.ids) - 1  # the header of the turn to come is there already
        if place >= len(given):
            return await self._engine.generate(request)
        tokens = (*self._encode(given[place]), self._end)
        return Turn(tokens, (0.0,) * len(tokens), True)

    def forget(self, session: str) -> None:
        """As the engine does."""
        self._engine.forget(session)

    def _messages(self, ids: Sequence[int]) -> int:
        """How many messages of the assistant begin in a context."""
        n, first = len(self._header), self._header[0]
        starts = (i for i, token in enumerate(ids) if token == first)
        return sum(tuple(ids[i : i + n]) == self._header for i in starts)
