"""An engine that says what it is told to, and tools that answer from a table."""

import dataclasses

from mirothinker_jax.agent.characters import Characters, read_messages
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
    """An Engine that says `lines`, one a turn, and keeps what it was asked. Log-probs count the tokens."""

    def __init__(self, lines, codec=CODEC):
        self.lines, self.codec = list(lines), codec
        self.requests = []
        self.heard = []  # of each turn: (ids that it had not seen or said, max_tokens)
        self.said = []  # ids of each turn
        self.forgotten = []
        self._seen = ()

    async def generate(self, request):
        ids = tuple(request.ids)
        known = self._seen == ids[: len(self._seen)]
        self.requests.append(request)
        self.heard.append((ids[len(self._seen) :] if known else ids, request.max_tokens))
        line = self.next_line(request)
        complete = not isinstance(line, Cut)
        said = self.codec.encode(line if isinstance(line, str) else line.text)
        end = self.codec.pad_id if isinstance(line, Ended) else self.codec.im_end_id
        said = (*said, end) if complete else tuple(said)
        first = sum(map(len, self.said))
        self.said.append(said)
        self._seen = ids + said
        return Turn(said, tuple(-float(first + i) for i in range(len(said))), complete)

    def next_line(self, request):
        return self.lines.pop(0)

    def forget(self, session):
        self.forgotten.append(session)

    def text(self, turn):
        """What it had not heard before this turn; everything, where that does not go on from the last one."""
        return self.codec.decode(self.heard[turn][0])

    def context(self, turn):
        """Everything that this turn was asked with."""
        return self.codec.decode(self.requests[turn].ids)


class Tools:
    """An executor that answers by `answer(call) → str or ToolResult` and keeps the calls."""

    def __init__(self, answer=lambda call: "result"):
        self.answer, self.calls = answer, []
        self.events = []

    async def begin(self, episode, files):
        self.events.append(("begin", episode, tuple(files)))

    async def end(self, episode):
        self.events.append(("end", episode))

    def changes(self, call):
        return False

    def concurrent(self, call):
        return True

    async def execute(self, call, request_id):
        self.calls.append((call, request_id))
        result = self.answer(call)
        return result if isinstance(result, ToolResult) else ToolResult(result)


ANSWER = "\\boxed{x}"


def search(q):
    return call("google_search", q=q)


def scrape(url, **more):
    return call("scrape_and_extract_info", url=url, **more)


def found(call):
    return f"found {call.arguments.get('q', call.tool)}"


def heard(engine, turn):
    """The speakers of what a turn was asked with, by their first letters, and the last message."""
    said = read_messages(engine.requests[turn].ids)
    return "".join(message["role"][0] for message in said), said[-1]["content"]
