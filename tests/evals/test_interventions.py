"""Interventions are functions of the request alone: they strike where they are told to, and nowhere else."""

import asyncio

import pytest

from mirothinker_jax.agent.policy import Request, Turn
from mirothinker_jax.evals.interventions import Faulty, Led, Shuffled, Silent, address
from mirothinker_jax.tools.spec import Failure, ToolCall, ToolResult

PAGE = ToolCall("web", "read", {"url": "http://a.test/KTM", "info_to_extract": "west"})
SEARCH = ToolCall("web", "search", {"q": "KTM"})
WEB = {
    "http://a.test/KTM": "KTM\nwest: [PKR](http://a.test/PKR)",
    "http://a.test/BOM": "BOM\nwest: [GOI](http://a.test/GOI)",
}


class Web:
    """An executor that answers from a table and keeps what it was asked."""

    def __init__(self):
        self.asked, self.episodes = [], []

    async def begin(self, episode, files):
        self.episodes.append(("begin", episode, tuple(files)))

    async def end(self, episode):
        self.episodes.append(("end", episode))

    def concurrent(self, call):
        return call.tool == "read"

    def changes(self, call):
        return call.tool == "write"

    async def execute(self, call, request_id):
        self.asked.append((call, request_id))
        if "url" not in call.arguments:
            return ToolResult(f"results for {call.arguments['q']}")
        url = call.arguments["url"]
        return ToolResult(WEB[url]) if url in WEB else ToolResult(f"HTTP 404 for {url}", Failure.TOOL_ERROR)


def other(url, wanted):
    return "http://a.test/BOM" if (url, wanted) == ("http://a.test/KTM", "west") else None


def result(executor, call, request_id):
    return asyncio.run(executor.execute(call, request_id))


@pytest.mark.parametrize(
    ("request_id", "episode", "turn"),
    [
        ("deep/q:1.0", "deep/q", 1),
        ("deep/q:12.3", "deep/q", 12),
        ("deep/q~2:3.0", "deep/q", 3),
        ("a:b/q#4:2.1", "a:b/q#4", 2),
    ],
)
def test_where_a_call_belongs(request_id, episode, turn):
    assert address(request_id) == (episode, turn)


@pytest.mark.parametrize(
    "wrap", [Silent, lambda web: Shuffled(web, {}), lambda web: Faulty(web, "dead", 1, other)]
)
def test_all_else_is_the_inner_executors(wrap):
    web = Web()
    wrapped = wrap(web)
    asyncio.run(wrapped.begin("q", ("f",)))
    asyncio.run(wrapped.end("q"))
    assert web.episodes == [("begin", "q", ("f",)), ("end", "q")]
    assert wrapped.concurrent(PAGE) and not wrapped.concurrent(SEARCH)
    assert wrapped.changes(ToolCall("web", "write")) and not wrapped.changes(PAGE)


def test_nothing_comes_back_and_nothing_is_asked():
    web = Web()
    assert result(Silent(web), PAGE, "q:1.0") == ToolResult("") and web.asked == []


@pytest.mark.parametrize(
    ("request_id", "text"),
    [("q:1.0", "first"), ("q:2.0", "second"), ("q:9.0", "second"), ("q~1:1.0", "first"), ("r:1.0", "")],
)
def test_another_episodes_results(request_id, text):
    web = Web()
    shuffled = Shuffled(web, {"q": ("first", "second"), "r": ()})
    # In any order, any number of times: an episode that was stopped goes on alike.
    assert [result(shuffled, PAGE, request_id).text for _ in range(2)] == [text, text] and web.asked == []


@pytest.mark.parametrize(
    ("kind", "text", "failure"),
    [
        ("dead", "HTTP 404 for http://a.test/KTM", Failure.TOOL_ERROR),
        ("wrong", "BOM\nwest: [GOI](http://a.test/GOI)", None),
        ("contradiction", "KTM\nwest: [GOI](http://a.test/GOI)", None),
    ],
)
def test_a_fault_strikes_one_page(kind, text, failure):
    faulty = Faulty(Web(), kind, 3, other)
    assert result(faulty, PAGE, "q:3.0") == ToolResult(text, failure)
    for call, request_id in ((PAGE, "q:2.0"), (PAGE, "q:4.0"), (SEARCH, "q:3.0")):
        assert result(faulty, call, request_id) == result(Web(), call, request_id)


@pytest.mark.parametrize("kind", ["wrong", "contradiction"])
def test_no_other_page_no_fault(kind):
    faulty = Faulty(Web(), kind, 1, lambda url, wanted: None)
    assert result(faulty, PAGE, "q:1.0").text == WEB["http://a.test/KTM"]
    missing = ToolCall("web", "read", {"url": "http://a.test/XXX", "info_to_extract": "west"})
    assert result(Faulty(Web(), kind, 1, lambda url, wanted: "http://a.test/BOM"), missing, "q:1.0").failure


HEADER, END = (900, 901), 902


class Policy:
    def __init__(self):
        self.forgotten = []

    async def generate(self, request):
        return Turn((7, END), (-1.0, -1.0), True)

    def forget(self, session):
        self.forgotten.append(session)


@pytest.mark.parametrize(
    ("session", "turns", "tokens"),
    [
        ("q", 0, (97, END)),
        ("q", 1, (98, 99, END)),
        ("q", 2, (7, END)),
        ("q~1", 1, (98, 99, END)),
        ("r", 0, (7, END)),
    ],
)
def test_the_first_turns_are_given(session, turns, tokens):
    led = Led(Policy(), {"q": ("a", "bc")}, lambda text: list(map(ord, text)), HEADER, END)
    # Each turn's header, and one of a message of somebody else; nothing but the context says how many turns there were.
    context = (*HEADER, *((5, 900, 6, *HEADER) * turns))
    turn = asyncio.run(led.generate(Request(session, context, 10)))
    assert turn.tokens == tokens and len(turn.logprobs) == len(tokens) and turn.complete


def test_a_session_is_forgotten():
    policy = Policy()
    Led(policy, {}, list, HEADER, END).forget("q")
    assert policy.forgotten == ["q"]
