"""Fresh attempts, fall-backs, and what holds for every episode under any setting."""

import random

import pytest
from scripted import ANSWER, Cut, Script, Tools, call, found, heard, search

from mirothinker_jax.agent.characters import read_messages
from mirothinker_jax.agent.context import PLACEHOLDER, ContextPolicy
from mirothinker_jax.agent.episode import turn_seed
from mirothinker_jax.agent.prompt import FAILURE_REQUEST, FINAL_REQUEST
from mirothinker_jax.tools.spec import Failure, ToolResult
from mirothinker_jax.trajectory.types import Stop


def test_an_attempt_without_a_box_is_followed_by_a_fresh_one(play):
    """With what the policy wrote down of it; or with the question alone."""
    lines = [search("a"), "no idea", "<think>hm</think>KTM is not LUA.", search("b"), ANSWER]
    trajectory, engine, _ = play(lines, Tools(found), restarts=5)
    assert (trajectory.answer, trajectory.metrics) == ("x", {"restarts": 1.0})
    assert [t.attempt for t in trajectory.turns] == [0, 0, 0, 1, 1]
    assert heard(engine, 2) == ("uauau", FAILURE_REQUEST)
    speakers, asked = heard(engine, 3)
    assert speakers == "u" and asked.startswith("Where is KTM?\n") and asked.endswith("KTM is not LUA.")
    assert "found a" not in engine.context(4)

    lines = [search("a"), "no idea", search("b"), ANSWER]
    trajectory, engine, _ = play(lines, Tools(found), restarts=5, restart_with="nothing")
    assert trajectory.answer == "x" and heard(engine, 2) == ("u", "Where is KTM?")
    assert engine.requests[0].ids == engine.requests[2].ids
    assert engine.requests[0].seed != engine.requests[2].seed


def test_summaries_of_all_attempts_are_handed_on(play):
    lines = ["no", "first", "no", "second", ANSWER]
    _, engine, _ = play(lines, restarts=2)
    assert heard(engine, 4)[1].endswith("1. first\n\n2. second")


def test_there_are_as_many_attempts_as_are_allowed(play):
    trajectory, engine, _ = play(["no"] * 4, restarts=3, restart_with="nothing")
    assert (trajectory.stop, trajectory.answer, len(engine.requests)) == (Stop.NO_ANSWER, None, 4)
    assert trajectory.metrics == {"restarts": 3.0}


def test_an_attempt_that_runs_out_is_not_asked_to_guess_while_another_is_left(play):
    lines = [search("a"), "tried a", search("b"), ANSWER]
    trajectory, engine, _ = play(lines, Tools(found), max_calls=1, restarts=1)
    assert (trajectory.stop, trajectory.answer, trajectory.calls) == (Stop.FORCED, "x", 2)
    assert engine.text(1).endswith(f"found a\n{FAILURE_REQUEST}<|im_end|>\n<|im_start|>assistant\n")
    assert engine.text(3).endswith(f"found b\n{FINAL_REQUEST}<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize(
    ("fallback", "ending"), [(True, ("b", Stop.FALLBACK)), (False, (None, Stop.NO_ANSWER))]
)
def test_the_last_box_beside_a_call_is_a_fallback(play, fallback, ending):
    lines = ["\\boxed{a}" + search("a"), "\\boxed{b}" + search("b"), search("c"), "\\boxed{unknown}", "no"]
    setting = dict(fallback=fallback, restarts=1, restart_with="nothing")
    trajectory, _, _ = play(lines, **setting)
    assert (trajectory.answer, trajectory.stop) == ending


def test_a_query_may_be_repeated_in_a_fresh_attempt(play):
    lines = [search("a"), "no", search("a"), ANSWER]
    trajectory, _, tools = play(lines, restarts=1, restart_with="nothing", rollbacks=4)
    assert len(tools.calls) == 2 and trajectory.metrics == {"restarts": 1.0}


def test_a_fresh_attempt_has_a_pile_of_its_own(play):
    """What the one before it hid says nothing of its results."""
    lines = [*[search(q) for q in "abcd"], "no", search("e"), search("f"), ANSWER]
    context = ContextPolicy(1, high_results=3)
    _, engine, _ = play(lines, Tools(found), restarts=1, restart_with="nothing", context=context)
    assert PLACEHOLDER in engine.context(4)
    assert [q for q in "abcdef" if f"found {q}" in engine.context(7)] == ["e", "f"]


def test_an_outage_is_no_failure_to_start_again_from(play):
    tools = Tools(lambda c: ToolResult("down", Failure.NETWORK))
    trajectory, engine, _ = play([search("a")], tools, restarts=5, outage_calls=1)
    assert trajectory.stop is Stop.INFRASTRUCTURE and len(engine.requests) == 1


class Erratic(Script):
    """Says anything, as the request's seed has it."""

    def next_line(self, request):
        draw = random.Random(request.seed)
        lines = [search(draw.randrange(9)) for _ in range(8)] + [search("a") + search("b") + call("look")]
        lines += [
            "no",
            "\\boxed{unknown}",
            "<use_mcp_tool>",
            Cut(search("cut")),
            ANSWER,
            search("empty"),
            call("nothing"),
        ]
        line = draw.choice(lines)
        return line if isinstance(line, Cut) else "<think>" + "." * draw.randrange(80) + "</think>" + line


@pytest.mark.parametrize("number", range(60))
def test_every_turn_fits_and_sees_a_conversation(play, number):
    """Whatever is said and found, under any setting: no turn could overflow, each saw what its context says, and the
    same turns and results give the same episode."""
    draw = random.Random(number)
    keep = draw.choice([-1, 1, 2, 5])
    setting = dict(
        max_calls=draw.choice([0, 3, 20]),
        context_tokens=draw.choice([1500, 3000]),
        context=ContextPolicy(keep, *draw.choice([(0, 0), (keep + 2, 0), (0, 400)]) if keep > 0 else ()),
        overflow=draw.choice(["reserve", "drop"]),
        final_answer=draw.choice(["forced", "always"]),
        rollbacks=draw.choice([0, 4]),
        restarts=draw.choice([0, 3]),
        restart_with=draw.choice(["summary", "nothing"]),
        fallback=draw.choice([False, True]),
    )

    def answer(c):
        draw = random.Random(str(c))
        if c.arguments.get("q") == "empty":
            return ToolResult("no results", Failure.NO_RESULTS)
        return ToolResult("r" * draw.randrange(200), draw.choice([None, None, Failure.UNKNOWN_TOOL]))

    trajectory, engine, _ = play(Erratic([]), Tools(answer), **setting)
    assert play(Erratic([]), Tools(answer), **setting)[0] == trajectory
    assert len(trajectory.turns) == len(engine.requests) > 0
    for count, (turn, request) in enumerate(zip(trajectory.turns, engine.requests, strict=True)):
        ids = [i for index in turn.context for i in trajectory.segments[index].tokens]
        assert ids == list(request.ids) and len(ids) + request.max_tokens <= setting["context_tokens"]
        assert max(turn.context) < turn.segment and request.seed == turn_seed(5, count)
        speakers = [m["role"] for m in read_messages(request.ids)]
        assert speakers == ["user", *["assistant", "user"] * (len(speakers) // 2)]
    edits = setting["rollbacks"] or setting["restarts"] or keep > 0 or setting["overflow"] == "drop"
    assert trajectory.linear or edits
    assert (trajectory.answer is None) == (trajectory.stop not in (Stop.ANSWERED, Stop.FORCED, Stop.FALLBACK))
