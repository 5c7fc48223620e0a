"""What the model sees of its results, and what happens where the context fills up."""

import pytest
from scripted import ANSWER, Script, Tools, call, found, heard, search

from mirothinker_jax.agent.characters import read_messages
from mirothinker_jax.agent.context import PLACEHOLDER, ContextPolicy, hidden_results
from mirothinker_jax.agent.prompt import FINAL_REQUEST
from mirothinker_jax.trajectory.types import Source, Stop

P, T, R, H = Source.PROMPT, Source.POLICY, Source.OBSERVATION, Source.PLACEHOLDER


@pytest.mark.parametrize(
    ("policy", "hidden"),
    [
        (ContextPolicy(), [0] * 9),
        (ContextPolicy(1), [0, 0, 1, 2, 3, 4, 5, 6, 7]),
        (ContextPolicy(5), [0, 0, 0, 0, 0, 0, 1, 2, 3]),
        (ContextPolicy(2, high_results=4), [0, 0, 0, 0, 0, 3, 3, 3, 6]),
        (ContextPolicy(2, high_tokens=35), [0, 0, 0, 0, 2, 2, 4, 4, 6]),
        (ContextPolicy(2, high_results=7, high_tokens=35), [0, 0, 0, 0, 2, 2, 4, 4, 6]),
        (ContextPolicy(3, high_tokens=5), [0, 0, 0, 0, 1, 2, 3, 4, 5]),
    ],
)
def test_how_many_results_are_hidden(policy, hidden):
    """After 0, 1, … results of 10 tokens."""
    seen = [0]
    for count in range(9):
        seen.append(hidden_results(policy, [10] * count, seen[-1]))
    assert seen[1:] == hidden


def test_the_last_result_alone_is_kept(play):
    """The example that trajectory/types.py works out."""
    trajectory, engine, _ = play(
        [call(q="a"), call(q="b"), ANSWER], Tools(found), context=ContextPolicy(1), system="S"
    )
    assert [s.source for s in trajectory.segments] == [P, T, R, T, R, H, T]
    assert [(t.segment, t.context) for t in trajectory.turns] == [
        (1, (0,)),
        (3, (0, 1, 2)),
        (6, (0, 1, 5, 3, 4)),
    ]
    assert trajectory.segments[5].hides == 2 and not trajectory.linear
    assert [m["content"] for m in read_messages(engine.requests[2].ids)] == [
        "S", "Where is KTM?", call(q="a"), PLACEHOLDER, call(q="b"), "found b",
    ]  # fmt: skip
    whole = [m["content"] for m in trajectory.messages()]
    assert whole == ["S", "Where is KTM?", call(q="a"), "found a", call(q="b"), "found b", ANSWER]


@pytest.mark.parametrize(("call_format", "lines"), [("mcp", 1), ("hermes", 2)])
def test_a_line_stands_for_a_message(play, call_format, lines):
    """One for all results of a turn, which are one message; in Qwen's format each call has its answer."""
    said = call(q="a") + call(q="b")
    if call_format == "hermes":
        said = '<tool_call>{"name": "look"}</tool_call>' * 2
    tools = Tools(lambda c: "found it")
    _, engine, _ = play([said, said, ANSWER], tools, context=ContextPolicy(1), call_format=call_format)
    assert engine.context(2).count(PLACEHOLDER) == lines
    assert engine.context(2).count("found it") == 2  # of the turn that is shown


def test_a_line_is_made_once(play):
    trajectory, _, _ = play([call(q="a")] * 5 + [ANSWER], context=ContextPolicy(2))
    hidden = [s.hides for s in trajectory.segments if s.source is H]
    observed = [i for i, s in enumerate(trajectory.segments) if s.source is R]
    assert hidden == observed[:3]


@pytest.mark.parametrize(
    ("max_calls", "final_answer", "lines", "seen"),
    [
        (3, "forced", [search("a"), search("b"), search("c"), ANSWER], ["b", "c"]),  # with the last result
        (9, "always", [search("a"), search("b"), search("c"), ANSWER, ANSWER], ["c"]),  # alone
    ],
)
def test_the_request_for_the_final_answer_counts_as_a_result(play, max_calls, final_answer, lines, seen):
    setting = dict(context=ContextPolicy(2), max_calls=max_calls, final_answer=final_answer)
    _, engine, _ = play(lines, Tools(found), **setting)
    context = engine.context(len(lines) - 1)
    assert [q for q in "abc" if f"found {q}" in context] == seen and FINAL_REQUEST in context


def test_a_turn_whose_results_leave_no_room_is_dropped(play):
    """And the answer is asked for beside the results before it."""
    sizes = iter([50, 60, 400])
    setting = dict(context_tokens=1050, turn_tokens=200, overflow="drop")
    trajectory, engine, tools = play(
        [search("a"), search("b"), search("c"), ANSWER], Tools(lambda c: "r" * next(sizes)), **setting
    )
    assert (trajectory.stop, trajectory.answer, len(tools.calls)) == (Stop.FORCED, "x", 3)
    assert heard(engine, 3) == ("uauau", f"{'r' * 60}\n{FINAL_REQUEST}")
    assert [t.context for t in trajectory.turns][2:] == [(0, 1, 2, 3, 4), (0, 1, 2, 3, 6)]


def test_the_first_turn_is_dropped_too(play):
    setting = dict(context_tokens=600, turn_tokens=200, overflow="drop")
    trajectory, engine, _ = play([search("a"), ANSWER], Tools(lambda c: "r" * 400), **setting)
    assert trajectory.stop is Stop.FORCED
    assert heard(engine, 1) == ("u", f"Where is KTM?\n{FINAL_REQUEST}")


@pytest.mark.parametrize("said", ["\\boxed{y}", "It is Nepal.", "\\boxed{unknown}"])
def test_the_answer_may_always_be_asked_for(play, said):
    """As the released checkpoints learned it: the answer is that of the turn which was asked for it."""
    trajectory, engine, _ = play([search("a"), said, ANSWER], final_answer="always")
    assert (trajectory.stop, trajectory.answer, trajectory.linear) == (Stop.ANSWERED, "x", True)
    assert heard(engine, 2) == ("uauau", FINAL_REQUEST)


@pytest.mark.parametrize("mark", [340, 430])
def test_a_request_that_lifts_the_pile_above_its_mark_is_not_counted_on(play, mark):
    """With the request results would be cut and a turn would fit; without it they stay, and it must fit as well."""

    class Obedient(Script):
        def next_line(self, request):
            return ANSWER if FINAL_REQUEST in self.codec.decode(request.ids) else search("a")

    setting = dict(context=ContextPolicy(1, high_tokens=mark), turn_tokens=150, overflow="drop")
    for context in range(900, 1300, 20):
        tools = Tools(lambda c: "r" * 60)
        trajectory, engine, _ = play(Obedient([]), tools, question="?", context_tokens=context, **setting)
        assert trajectory.answer == "x" and all(len(r.ids) + 150 <= context for r in engine.requests)
