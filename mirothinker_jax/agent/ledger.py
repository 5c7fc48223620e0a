"""An episode's tokens while it runs: everything that was ever shown or sampled, and the conversation as it stands.

The conversation is a list of segments, its *path*. Taking a turn back, or beginning anew, changes the path; nothing
leaves the ledger. What a turn is sampled in is the path with the results that the context policy hides in their short
form.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mirothinker_jax.agent.context import PLACEHOLDER, ContextPolicy, hidden_results
from mirothinker_jax.agent.policy import Chat, Turn
from mirothinker_jax.trajectory.types import Said, Segment, Source, TurnContext


class Ledger:
    """Segments and turns in the order in which they came to be."""

    def __init__(self, chat: Chat, decode: Callable[[Sequence[int]], str], policy: ContextPolicy):
        self._chat, self._decode, self._policy = chat, decode, policy
        self.segments: list[Segment] = []
        self.turns: list[TurnContext] = []
        self._path: list[int] = []
        self._hidden = 0  # results that the last turn did not see
        self._short: dict[int, tuple[int, ...]] = {}  # observation → ids of its short form
        self._placeholders: dict[int, int] = {}  # observation → its PLACEHOLDER segment, once it was needed
        self._routes: list[np.ndarray] = []
        self._routed = 0  # tokens that have routes

    # The conversation

    @property
    def last(self) -> Segment:
        """Where the conversation ends."""
        return self.segments[self._path[-1]]

    @property
    def end(self) -> int:
        """The token that the conversation ends by. After a turn without tokens it is that before it, which ends no
        message either."""
        return (self.last.tokens or self.segments[self._path[-2]].tokens)[-1]

    def begin(self, ids: Sequence[int], messages: Sequence[Said]) -> None:
        """A conversation that starts with this prompt, and of which nothing else was said."""
        self._path, self._hidden = [], 0
        self._append(Segment(Source.PROMPT, tuple(ids), tuple(messages)))

    def observe(self, ids: Sequence[int], messages: Sequence[Said]) -> None:
        """What a turn brought, or is followed by."""
        end = self.end
        self._append(Segment(Source.OBSERVATION, tuple(ids), tuple(messages)))
        self._short[self._path[-1]] = tuple(self._chat.observation(self._lines(self._path[-1]), end))

    def speak(self, turn: Turn, context: tuple[int, ...], attempt: int) -> str:
        """A turn that was sampled in `context`; its text, without the token that ended it."""
        text = self._decode(turn.tokens[:-1] if turn.complete else turn.tokens)
        said = (("assistant", text),)
        self._append(Segment(Source.POLICY, turn.tokens, said, turn.logprobs))
        self.turns.append(TurnContext(self._path[-1], context, attempt))
        self._keep_routes(turn)
        return text

    def take_back(self) -> Segment:
        """Takes the last segment out of the conversation."""
        return self.segments[self._path.pop()]

    # What the model sees

    def context(self) -> tuple[int, ...]:
        """The segments that the next turn is sampled in. Short forms join the ledger when they are first needed."""
        observed = self._observed()
        self._hidden = hidden_results(self._policy, self._sizes(observed), self._hidden)
        hidden = observed[: self._hidden]
        for index in hidden:
            if index not in self._placeholders:
                said = tuple(("tool", line) for line in self._lines(index))
                self.segments.append(Segment(Source.PLACEHOLDER, self._short[index], said, hides=index))
                self._placeholders[index] = len(self.segments) - 1
        short = {index: self._placeholders[index] for index in hidden}
        return tuple(short.get(index, index) for index in self._path)

    def ids(self, context: Sequence[int]) -> list[int]:
        """The tokens of these segments."""
        return [token for index in context for token in self.segments[index].tokens]

    def length(self, following: int = 0) -> int:
        """Tokens of the context of the next turn, where an observation of `following` tokens comes before it."""
        observed = self._observed()
        sizes = self._sizes(observed) + ([following] if following else [])
        hidden = observed[: hidden_results(self._policy, sizes, self._hidden)]
        saved = sum(len(self.segments[index].tokens) - len(self._short[index]) for index in hidden)
        return sum(len(self.segments[index].tokens) for index in self._path) + following - saved

    @property
    def routes(self) -> np.ndarray | None:
        """int16 [n, L, k], the experts of the first n tokens of a linear episode; None where they were not recorded,
        or where turns were sampled in something else than all that came before."""
        linear = all(turn.context == tuple(range(turn.segment)) for turn in self.turns)
        return np.concatenate(self._routes) if self._routes and linear else None

    def _append(self, segment: Segment) -> None:
        self.segments.append(segment)
        self._path.append(len(self.segments) - 1)

    def _observed(self) -> list[int]:
        return [index for index in self._path if self.segments[index].source is Source.OBSERVATION]

    def _sizes(self, observed: Sequence[int]) -> list[int]:
        return [len(self.segments[index].tokens) for index in observed]

    def _lines(self, index: int) -> list[str]:
        """What stands for an observation. MiroThinker's format has one message for all results of a turn; in Qwen's,
        every call has an answer."""
        results = sum(role == "tool" for role, _ in self.segments[index].messages)
        return [PLACEHOLDER] * (max(1, results) if self._chat.call_format == "hermes" else 1)

    def _keep_routes(self, turn: Turn) -> None:
        if turn.routes is None:
            return
        # The last token was not fed. An engine that had forgotten the context fed more than the last turn's.
        fed = sum(len(segment.tokens) for segment in self.segments) - 1
        new = fed - self._routed
        self._routes.append(turn.routes[len(turn.routes) - new :])
        self._routed = fed
