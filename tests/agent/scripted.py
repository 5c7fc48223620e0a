"""A policy that says what it is told to, and tools that answer from a table."""

import dataclasses

from mirothinker_jax.agent.expert import Characters
from mirothinker_jax.agent.policy import Turn
from mirothinker_jax.tools.spec import ToolCall, ToolResult, render_call

CODEC = Characters()


def call(tool="look", **arguments):
    return render_call(ToolCall("web", tool, arguments))


@dataclasses.dataclass
class Cut:
    """A turn that ran into its length limit."""

    text: str


@dataclasses.dataclass
class Ended:
    """A turn that the policy ended by `<|endoftext|>`."""

    text: str


class Script:
    """A Policy that says `lines`, one a turn, and keeps what it was fed. Log-probs count the tokens."""

    def __init__(self, lines, codec=CODEC):
        self.lines, self.codec = list(lines), codec
        self.heard = []  # of each turn: (ids fed, max_tokens)
        self.said = []  # ids of each turn
        self.closed = 0

    async def open(self, seed):
        self.seed = seed
        return self

    async def sample(self, tokens, max_tokens):
        self.heard.append((tuple(tokens), max_tokens))
        line = self.lines.pop(0)
        complete = not isinstance(line, Cut)
        ids = self.codec.encode(line if isinstance(line, str) else line.text)
        end = self.codec.pad_id if isinstance(line, Ended) else self.codec.im_end_id
        ids = (*ids, end) if complete else tuple(ids)
        self.said.append(ids)
        first = sum(map(len, self.said[:-1]))
        return Turn(ids, tuple(-float(first + i) for i in range(len(ids))), complete)

    def close(self):
        self.closed += 1

    def text(self, turn):
        """What was fed before this turn."""
        return self.codec.decode(self.heard[turn][0])


class Tools:
    """An executor that answers by `answer(call) → str or ToolResult` and keeps the calls."""

    def __init__(self, answer=lambda call: "result"):
        self.answer, self.calls = answer, []

    def concurrent(self, call):
        return True

    async def execute(self, call, request_id):
        self.calls.append((call, request_id))
        result = self.answer(call)
        return result if isinstance(result, ToolResult) else ToolResult(result)
