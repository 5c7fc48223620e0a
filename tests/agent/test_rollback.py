"""Turns that are taken back, for which reasons, and how often."""

import pytest
from scripted import ANSWER, Cut, Script, Tools, call, found, scrape, search

from mirothinker_jax.agent.prompt import FINAL_REQUEST
from mirothinker_jax.agent.rollback import EXTRA_TURNS, Reason
from mirothinker_jax.tools.spec import Failure, ToolResult
from mirothinker_jax.trajectory.types import Stop

UNUSABLE = {  # by reason: what is said after search("a"), and what it may take
    Reason.CUT: Cut(search("b")),
    Reason.MALFORMED: "<use_mcp_tool>oops",
    Reason.REFUSED: "I'm sorry, but I can't help with that.",
    Reason.REPEATED: search("a"),
    Reason.BROKEN_CALL: call("nothing"),
    Reason.NOTHING_FOUND: search("empty"),
}


def answer(c):
    if c.tool == "nothing":
        return ToolResult("unknown tool", Failure.UNKNOWN_TOOL)
    if c.arguments.get("q") == "empty":
        return ToolResult("no results", Failure.NO_RESULTS)
    return found(c)


@pytest.mark.parametrize("reason", UNUSABLE)
def test_a_turn_is_taken_back_and_sampled_again(play, reason):
    trajectory, engine, tools = play(
        [search("a"), UNUSABLE[reason], search("c"), ANSWER], Tools(answer), rollbacks=4
    )
    assert (trajectory.answer, trajectory.stop, trajectory.malformed_calls) == ("x", Stop.ANSWERED, 0)
    assert engine.requests[1].ids == engine.requests[2].ids
    assert engine.requests[1].seed != engine.requests[2].seed
    assert trajectory.metrics == {f"rollbacks/{reason}": 1.0}
    made = {Reason.BROKEN_CALL: 3, Reason.NOTHING_FOUND: 3}.get(reason, 2)
    assert trajectory.calls == len(tools.calls) == made
    # The ledger has it; the conversation has not.
    assert [t.context for t in trajectory.turns] == [(0,), (0, 1, 2), (0, 1, 2), (0, 1, 2, 4, 5)]
    said = UNUSABLE[reason].text if reason is Reason.CUT else UNUSABLE[reason]
    assert trajectory.segments[3].text == said
    assert said not in [m["content"] for m in trajectory.messages()][3:]


@pytest.mark.parametrize(
    "said",
    [
        ANSWER + " I'm sorry, I cannot help more.",  # an answer
        "<think>I'm sorry, I can't answer this.</think>It is Nepal.",
        "The time limit of a chess game, which I cannot confirm, is 90 minutes.",
        search("b"),
        scrape("http://a/", info_to_extract="height"),
        scrape("http://b/", info_to_extract="city"),
        scrape("http://a/"),
        call("run_python_code", code_block="1"),
    ],
)
def test_what_is_not_taken_back(play, said):
    lines = [
        scrape("http://a/", info_to_extract="city") + search("a"),
        call("run_python_code", code_block="1"),
    ]
    trajectory, _, _ = play([*lines, said, ANSWER], Tools(answer), rollbacks=4, turn_tokens=500)
    assert trajectory.metrics == {} and len(trajectory.turns) >= 3


@pytest.mark.parametrize(
    ("earlier", "said"),
    [
        (scrape("http://a/", info_to_extract="city"), scrape("http://a/", description="city")),
        (search("b"), search("c") + search("b")),
        ("<think>hm</think>" + call(q="x"), search("b") + search("b")),
        (search("b"), "抱歉，我无法回答"),
        (search("b"), "I’m unable to complete this."),
        (search("b"), "There are too many pages to read within the time limit."),
        (search("b"), search("c") + "<use_mcp_tool>" + search("d").replace("{", "[")),
    ],
)
def test_what_is_taken_back_too(play, earlier, said):
    trajectory, _, _ = play([earlier, said, ANSWER], Tools(answer), rollbacks=4, turn_tokens=500)
    assert sum(trajectory.metrics.values()) == 1


def test_a_query_that_failed_or_was_never_shown_may_be_asked_again(play):
    """Only what has been answered has not to be; a search without results has been."""
    down = iter([True])

    def shaky(c):
        if c.arguments.get("q") == "down" and next(down, False):
            return ToolResult("cannot reach it", Failure.UNREACHABLE)
        return answer(c)

    lines = [search("down"), search("down"), search("b") + call("nothing"), search("b"), search("empty")]
    trajectory, _, _ = play([*lines, search("empty"), ANSWER], Tools(shaky), rollbacks=4)
    assert trajectory.metrics == {
        "rollbacks/broken_call": 1.0,
        "rollbacks/nothing_found": 1.0,
        "rollbacks/repeated": 1.0,
        "network_failures_in_a_row": 1.0,
    }


@pytest.mark.parametrize("reason", UNUSABLE)
def test_after_four_in_a_row(play, reason):
    """A turn without a usable call ends the loop; a usable one is made, and its result passed on."""
    lines = [search("a"), *[UNUSABLE[reason]] * 5, ANSWER]
    trajectory, engine, tools = play(lines, Tools(answer), rollbacks=4)
    # A search without results is known to have none: the second time it is a repetition.
    assert sum(trajectory.metrics.values()) == 4
    ends = {Reason.CUT: Stop.LENGTH, Reason.MALFORMED: Stop.FORCED, Reason.REFUSED: Stop.FORCED}
    assert trajectory.stop is ends.get(reason, Stop.ANSWERED)
    if reason is Reason.CUT:
        assert len(engine.requests) == 6
    elif reason in ends:
        assert FINAL_REQUEST in engine.text(6) and trajectory.answer == "x"
    else:
        assert len(tools.calls) >= 2 and FINAL_REQUEST not in engine.context(6)
    assert trajectory.malformed_calls == (reason is Reason.MALFORMED)


def test_a_turn_that_is_kept_ends_the_row(play):
    lines = ["<use_mcp_tool>", search("a"), *["<use_mcp_tool>"] * 4, search("b"), ANSWER]
    trajectory, _, _ = play(lines, Tools(answer), rollbacks=4)
    assert trajectory.metrics == {"rollbacks/malformed": 5.0} and trajectory.stop is Stop.ANSWERED


def test_turns_are_limited_whatever_is_taken_back(play):
    """As often as it may, and then one call: two hundred turns more than calls are sampled, and the last one."""

    class Clumsy(Script):
        def next_line(self, request):
            if FINAL_REQUEST in self.codec.decode(request.ids[-200:]):
                return ANSWER
            return "<use_mcp_tool>" if len(self.said) % 5 else search(len(self.said))

    trajectory, engine, _ = play(Clumsy([]), rollbacks=4, max_calls=100, context_tokens=100_000)
    assert (trajectory.stop, len(engine.requests)) == (Stop.FORCED, 100 + EXTRA_TURNS + 1)
    assert trajectory.calls == 60


def test_without_rollbacks_nothing_is_taken_back(play):
    trajectory, _, tools = play(
        [search("a"), search("a"), call("nothing"), search("empty"), ANSWER], Tools(answer)
    )
    assert trajectory.linear and trajectory.metrics == {} and len(tools.calls) == 4


def test_an_outage_is_counted_through_rollbacks(play):
    tools = Tools(lambda c: ToolResult("down", Failure.NETWORK))
    trajectory, _, _ = play([search(str(i)) for i in range(9)], tools, rollbacks=4, outage_calls=3)
    assert (trajectory.stop, trajectory.calls, trajectory.reason) == (Stop.INFRASTRUCTURE, 3, "down")
