"""Episodes whose context was edited, in tokens that occur once each, so that a row can be read back."""

from collections.abc import Sequence

from stretches import segment

from mirothinker_jax.trajectory.types import Segment, Source, TurnContext


class Episode:
    """The conversation is a list of segments; what a turn sees has the short form of what is hidden."""

    def __init__(self):
        self.segments: list[Segment] = []
        self.turns: list[TurnContext] = []
        self._path: list[int] = []
        self._short: dict[int, int] = {}
        self._hidden: set[int] = set()

    def _add(self, source: Source, tokens: int, **fields) -> int:
        first = 1 + sum(len(s.tokens) for s in self.segments)
        ids = range(first, first + tokens)
        logprobs = [-i / 8 for i in ids] if source is Source.POLICY else ()
        self.segments.append(segment(source, ids, "", tuple(logprobs), **fields))
        return len(self.segments) - 1

    def prompt(self, tokens: int) -> None:
        """Begins (anew) with a prompt of its own."""
        self._path, self._hidden = [self._add(Source.PROMPT, tokens)], set()

    def restart(self) -> None:
        """Begins anew with the same prompt."""
        self._path, self._hidden = self._path[:1], set()

    def turn(self, tokens: int) -> None:
        context = tuple(self._short[i] if i in self._hidden else i for i in self._path)
        self._path.append(self._add(Source.POLICY, tokens))
        self.turns.append(TurnContext(self._path[-1], context))

    def observe(self, tokens: int) -> None:
        self._path.append(self._add(Source.OBSERVATION, tokens))

    def take_back(self) -> None:
        if self.segments[self._path[-1]].source is Source.POLICY:
            self._path.pop()

    def drop(self) -> None:
        """Drops the last turn with its result, as where the context is full."""
        if len(self._path) > 2 and self.segments[self._path[-1]].source is Source.OBSERVATION:
            del self._path[-2:]

    def hide(self, which: Sequence[int], tokens: int) -> None:
        """Hides these of the conversation's results, and no others; a short form has `tokens`."""
        observed = [i for i in self._path if self.segments[i].source is Source.OBSERVATION]
        self._hidden = {observed[n] for n in which if n < len(observed)}
        for i in self._hidden - self._short.keys():
            self._short[i] = self._add(Source.PLACEHOLDER, tokens, hides=i)

    def keep(self, last: int, tokens: int, high: int = 0) -> None:
        """Hides all results but the last ones, where more than `high` are shown."""
        observed = [i for i in self._path if self.segments[i].source is Source.OBSERVATION]
        if len(observed) - len(self._hidden & set(observed)) > max(high, last):
            self.hide(range(len(observed) - last), tokens)


def keep_last(turns: int, last: int, high: int = 0, sizes=(3, 2, 4, 1)) -> Episode:
    """`turns` turns with a result after each; `sizes` of prompt, turn, result and short form."""
    prompt, turn, result, short = sizes
    episode = Episode()
    episode.prompt(prompt)
    for number in range(turns):
        if number:
            episode.observe(result)
            episode.keep(last, short, high)
        episode.turn(turn)
    return episode
