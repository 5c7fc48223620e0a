"""A scripted expert: it answers chain questions through the real tools, errs now and then, and recovers.

It is an engine like any other, so its episodes run through the same loop as the model's. Its tokens are
Unicode code points (agent/characters.py), because it writes the corpus that the tokenizer is trained on.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass

from mirothinker_jax.agent.characters import Characters, read_messages
from mirothinker_jax.agent.policy import Request, Turn
from mirothinker_jax.agent.prompt import FINAL_REQUEST
from mirothinker_jax.agent.wire.formats import WIRES
from mirothinker_jax.tools.spec import ToolCall
from mirothinker_jax.trajectory.types import Source, Trajectory

_LINK = re.compile(r"\]\((\S+)\)")
_TRIES = 3  # of one step, before the expert gives up

SEARCH = ("search_and_scrape_webpage", "google_search")
SCRAPE = ("jina_scrape_llm_summary", "scrape_and_extract_info")

Said = str | tuple[str, ToolCall]  # a turn's text; or its thought and its call, however that is written


@dataclass(frozen=True)
class Plan:
    """What the expert knows of a question: where to start, and what to read on each page in turn.

    All of `reads` but the last are relations whose link is followed; the last is the attribute asked for.
    """

    start: str
    reads: tuple[str, ...]

    def thoughts(self) -> tuple[str, ...]:
        """The thought before each read: the question's words from the step that is done to the end.

        Each is the one before without its first word, so whoever can go on with a list finds the next step in
        the question, however long the route.
        """
        if len(self.reads) == 1:
            return (f"look up {self.reads[0]}",)
        words = ("go", *self.reads[:-1], "from", self.reads[-1])
        return tuple(" ".join(words[i:]) for i in range(len(self.reads)))


class Expert:
    """The engine of one question, or of many: `plans` says what the expert knows of the question that a user's message
    asks. `mistake_rate` is the chance per page read of a deliberate error; `call_format` is how calls are written.

    What a session errs in is drawn from `seed` and the session's name, up to the "~" of a further try: that one goes on
    where the last one broke. The seeds of its turns do not matter: a script that is gone on with, by an engine that did
    not hear its beginning, must come to the same.
    """

    def __init__(
        self,
        plans: Callable[[str], Plan],
        mistake_rate: float,
        call_format: str = "mcp",
        seed: int = 0,
        final_request: str = FINAL_REQUEST,
    ):
        self._plans, self._rate, self._wire = plans, mistake_rate, WIRES[call_format]
        self._seed, self._final, self._codec = seed, final_request, Characters()

    async def generate(self, request: Request) -> Turn:
        """What the script says to the last of the messages, after having heard the others."""
        heard = _heard(request.ids)
        if heard[-1].endswith(self._final):
            said: Said = "<think>no calls left</think>\\boxed{unknown}"
        else:
            rng = random.Random(f"{self._seed}|{request.session.partition('~')[0]}")
            script = _script(self._plans(heard[0]), self._rate, rng)
            next(script)
            for message in heard[:-1]:
                script.send(message)
            said = script.send(heard[-1])
        if not isinstance(said, str):
            said = f"<think>{said[0]}</think>{self._wire.render([said[1]])}"
        ids = (*self._codec.encode(said), self._codec.im_end_id)
        return Turn(ids, (0.0,) * len(ids), True)

    def forget(self, session: str) -> None:
        """Nothing is kept of a session."""


def _heard(ids: Sequence[int]) -> list[str]:
    """What was said last before each turn of the expert, the one to come included."""
    said = read_messages(ids)
    before = [earlier for earlier, turn in itertools.pairwise(said) if turn["role"] == "assistant"]
    return [message["content"] for message in (*before, said[-1])]


def _say(thought: str, tool: tuple[str, str], arguments: Mapping[str, str]) -> Said:
    return thought, ToolCall(*tool, arguments)


def _script(plan: Plan, rate: float, rng: random.Random) -> Generator[Said, str, None]:
    """Yields what the expert says; is sent what it hears. The first `yield` waits for the question."""
    yield ""
    title, value = plan.start, None
    url = yield from _find(title, "", rate, rng)
    for wanted, thought in zip(plan.reads, plan.thoughts(), strict=True):
        value = None
        for _ in range(_TRIES):
            asked, said = wanted, thought
            others = [r for r in plan.reads if r != wanted]
            if others and rng.random() < rate:
                asked = rng.choice(others)
                said = f"{thought.partition(' ')[0]} {asked}"
            page = yield _say(said, SCRAPE, {"url": url, "info_to_extract": asked})
            heading, _, line = page.partition("\n")
            if heading == title and line.startswith(f"{wanted}: "):
                value = line.removeprefix(f"{wanted}: ").partition("\n")[0]
                break
            if heading != title and "404" in page:
                url = yield from _find(title, url, 0.0, rng)
            elif heading != title and line:  # another page than the one wanted
                url = yield from _find(title, "", 0.0, rng)
        if value is None:
            yield "<think>not found</think>\\boxed{unknown}"
            return
        if link := _LINK.search(value):
            title, url = value[1:].partition("]")[0], link.group(1)
    yield f"<think>done</think>\\boxed{{{value}}}"


def _find(title: str, dead: str, rate: float, rng: random.Random) -> Generator[Said, str, str]:
    """Searches for a page and returns its address: not the dead one, and by mistake another one's."""
    for _ in range(_TRIES):
        found = yield _say("search", SEARCH, {"q": title})
        hits = re.findall(r"^\d+\. (.*)\n(\S+)", found, re.MULTILINE)
        right = [link for name, link in hits if name == title and link != dead]
        wrong = [link for name, link in hits if name != title]
        if wrong and rng.random() < rate:
            return rng.choice(wrong)
        if right:
            return right[0]
    return dead


def messages(trajectory: Trajectory) -> list[dict[str, str]]:
    """The episode as chat messages, read off its tokens."""
    assert trajectory.segments[-1].source is Source.POLICY
    return read_messages([i for segment in trajectory.segments for i in segment.tokens])
