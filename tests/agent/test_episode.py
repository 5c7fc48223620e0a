"""The agent loop: every way an episode ends, its budgets, and its ledger of tokens."""

import asyncio
import dataclasses

import numpy as np
import pytest
from scripted import CODEC, Cut, Ended, Script, Tools, call

from mirothinker_jax.agent.policy import EngineError
from mirothinker_jax.agent.prompt import FAILURE_REQUEST, FINAL_REQUEST
from mirothinker_jax.agent.setting import Setting, min_context_tokens
from mirothinker_jax.config import ToolsConfig
from mirothinker_jax.data.chat import Chat
from mirothinker_jax.tools.browse import ScrapePage
from mirothinker_jax.tools.client import WebClient
from mirothinker_jax.tools.executor import ToolExecutor
from mirothinker_jax.tools.spec import Failure, ToolError, ToolResult
from mirothinker_jax.trajectory.reward import violates_format
from mirothinker_jax.trajectory.types import Source, Stop

THOUGHT = "<think>hm</think>"
OUTAGE = Setting(None, 0, 0, 0, 0).outage_calls


def sources(trajectory):
    return [s.source for s in trajectory.segments]


class Routed(Script):
    """A Script that says of every token it is fed which place that has. `forgets`: it is fed the whole context."""

    def __init__(self, lines, forgets=False):
        super().__init__(lines)
        self.fed, self.forgets = 0, forgets

    async def generate(self, request):
        turn = await super().generate(request)
        fed = len(request.ids) + len(turn.tokens) - 1
        first, self.fed = 0 if self.forgets else self.fed, fed
        return dataclasses.replace(turn, routes=np.arange(first, fed, dtype=np.int16).reshape(-1, 1, 1))


def test_an_answer_given_freely(play):
    trajectory, policy, tools = play([f"{THOUGHT}\\boxed{{Nepal}}"])
    assert (trajectory.stop, trajectory.answer, trajectory.calls) == (Stop.ANSWERED, "Nepal", 0)
    assert sources(trajectory) == [Source.PROMPT, Source.POLICY]
    assert (trajectory.question_id, trajectory.expected, trajectory.metadata) == (
        "q",
        "Kathmandu",
        {"hops": 2},
    )
    assert tools.calls == [] and policy.forgotten == ["e"]
    assert tools.events == [("begin", "e", ("a.pdf",)), ("end", "e")]


def test_calls_and_then_an_answer(play):
    lines = [THOUGHT + call(q="a"), THOUGHT + call(q="b") + call(q="c"), "\\boxed{x}"]
    trajectory, policy, tools = play(lines, Tools(lambda c: f"found {c.arguments['q']}"), system="Be brief.")
    assert (trajectory.stop, trajectory.calls, trajectory.failed_calls) == (Stop.ANSWERED, 3, 0)
    assert [(c.arguments["q"], id) for c, id in tools.calls] == [
        ("a", "e:1.0"),
        ("b", "e:2.0"),
        ("c", "e:2.1"),
    ]
    assert policy.text(0).startswith(
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhere is KTM?"
    )
    assert policy.text(1) == "\n<|im_start|>user\nfound a<|im_end|>\n<|im_start|>assistant\n"
    assert policy.text(2) == "\n<|im_start|>user\nfound b\nfound c<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("forgets", [False, True])
def test_routes_are_of_the_ledger_in_order(play, forgets):
    """Of every token but the last, which nothing follows."""
    trajectory, _, _ = play(Routed([call(q="a"), "\\boxed{x}"], forgets))
    np.testing.assert_array_equal(trajectory.routes[:, 0, 0], np.arange(trajectory.tokens - 1))
    assert play(["\\boxed{x}"])[0].routes is None


def test_the_ledger_is_what_was_fed_and_sampled(play):
    """Segment by segment, and log-prob by log-prob."""
    trajectory, policy, _ = play([call(q="a"), "<arguments>", "\\boxed{x}"])
    assert len(policy.heard) == 3
    kinds = [Source.PROMPT, Source.POLICY, *[Source.OBSERVATION, Source.POLICY] * 2]
    assert sources(trajectory) == kinds
    fed = [s.tokens for s in trajectory.segments if s.source is not Source.POLICY]
    assert fed == [tokens for tokens, _ in policy.heard]
    sampled = [s for s in trajectory.segments if s.source is Source.POLICY]
    assert [s.tokens for s in sampled] == policy.said
    logprobs = [x for s in sampled for x in s.logprobs]
    assert logprobs == [-float(i) for i in range(len(logprobs))]
    assert [turn.context for turn in trajectory.turns] == [(0,), (0, 1, 2), (0, 1, 2, 3, 4)]
    assert [turn.segment for turn in trajectory.turns] == [1, 3, 5] and trajectory.linear
    assert all(most == 300 for _, most in policy.heard)


def test_what_a_ledger_says(play):
    """As chat messages, without the frames of a template."""
    lines = [THOUGHT + call(q="a") + call(q="b"), Cut("\\boxed{x}")]
    trajectory, _, _ = play(
        lines, Tools(lambda c: f"found {c.arguments['q']}"), system="Be brief.", max_calls=2
    )
    assert trajectory.messages() == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Where is KTM?"},
        {"role": "assistant", "content": lines[0]},
        {"role": "tool", "content": "found a"},
        {"role": "tool", "content": "found b"},
        {"role": "user", "content": FINAL_REQUEST},
        {"role": "assistant", "content": "\\boxed{x}"},
    ]


def test_every_turn_has_a_seed_of_its_own_and_of_its_episode(play):
    lines = [call(q="a"), call(q="b"), "\\boxed{x}"]
    seeds = [[r.seed for r in play(lines, seed=seed)[1].requests] for seed in (5, 5, 6)]
    assert seeds[0] == seeds[1] and len({*seeds[0], *seeds[2]}) == 6
    assert all(0 <= seed < 2**31 for seed in seeds[0])


@pytest.mark.parametrize("said", [f"{THOUGHT}I do not know.", "", "<think>\\boxed{x}</think>so"])
def test_neither_a_call_nor_an_answer(play, said):
    trajectory, _, _ = play([said])
    assert (trajectory.stop, trajectory.answer) == (Stop.NO_ANSWER, None)


@pytest.mark.parametrize("box", ["\\boxed{}", "\\boxed{unknown}", "\\boxed{x} \\boxed{？}"])
@pytest.mark.parametrize("max_calls", [0, 3])
def test_a_box_that_says_nothing_is_no_answer(play, box, max_calls):
    trajectory, _, _ = play([f"{THOUGHT}{box}"], max_calls=max_calls)
    assert (trajectory.stop, trajectory.answer) == (Stop.GAVE_UP, None)
    assert not violates_format(trajectory)


def test_a_box_in_a_call_is_no_answer(play):
    trajectory, _, _ = play([call(q="\\boxed{x}")], max_calls=0)
    assert (trajectory.stop, trajectory.answer) == (Stop.NO_ANSWER, None)


def test_made_up_hosts_through_the_real_tools(play):
    """Five in a row, and the policy's episode is still scored."""
    settings = ToolsConfig()
    executor = ToolExecutor([ScrapePage(WebClient(), settings)], settings, CODEC.truncate)

    class Closing:
        concurrent = executor.concurrent

        begin, end = executor.begin, executor.end

        async def execute(self, call, request_id):
            async with executor:
                return await executor.execute(call, request_id)

    lines = [
        call("scrape_and_extract_info", url=f"http://made-up-{i}.invalid/", description="x") for i in range(6)
    ]
    trajectory, policy, _ = play([*lines, "\\boxed{x}"], Closing(), max_calls=20, turn_tokens=400)
    assert (trajectory.stop, trajectory.failed_calls) == (Stop.ANSWERED, 6)
    assert "cannot reach http://made-up-0.invalid/" in policy.text(1)


def test_a_turn_that_is_cut_ends_the_episode(play):
    trajectory, _, tools = play([Cut(call(q="a") + "\\boxed{x}")])
    assert (trajectory.stop, trajectory.answer, tools.calls) == (Stop.LENGTH, None, [])
    assert trajectory.segments[-1].tokens[-1] != CODEC.im_end_id


@pytest.mark.parametrize("max_calls", [8, 1], ids=["on the way", "before the last turn"])
def test_a_turn_that_ends_by_another_token_is_closed_before_the_next_message(play, max_calls):
    """The token that was sampled stays, and is trained; the one that closes the message is not the policy's."""
    lines = [Ended(call(q="a")), Ended("\\boxed{x}")]
    trajectory, policy, _ = play(lines, max_calls=max_calls)
    assert trajectory.answer == "x" and trajectory.calls == 1
    assert policy.text(1).startswith("<|im_end|>\n<|im_start|>user\nresult")
    sampled = [s.tokens for s in trajectory.segments if s.source is Source.POLICY]
    assert sampled == policy.said and all(tokens[-1] == CODEC.pad_id for tokens in sampled)


def test_without_a_budget_the_answer_is_asked_for_at_once(play):
    trajectory, policy, tools = play(["\\boxed{Nepal}"], max_calls=0)
    assert (trajectory.stop, trajectory.answer) == (Stop.FORCED, "Nepal")
    assert policy.text(0).endswith(f"KTM?\n{FINAL_REQUEST}<|im_end|>\n<|im_start|>assistant\n")
    trajectory, _, tools = play([call(q="a")], max_calls=0)
    assert (trajectory.stop, trajectory.answer, tools.calls) == (Stop.NO_ANSWER, None, [])


def test_after_the_last_call_the_answer_is_asked_for(play):
    trajectory, policy, tools = play([call(q="a"), call(q="b"), "\\boxed{x}"], max_calls=2)
    assert (trajectory.stop, trajectory.answer, trajectory.calls) == (Stop.FORCED, "x", 2)
    assert FINAL_REQUEST not in policy.text(1)
    assert policy.text(2) == f"\n<|im_start|>user\nresult\n{FINAL_REQUEST}<|im_end|>\n<|im_start|>assistant\n"
    assert len(tools.calls) == 2


def test_calls_beyond_the_budget_are_not_made(play):
    trajectory, policy, tools = play([call(q="a") + call(q="b") + call(q="c"), "\\boxed{x}"], max_calls=2)
    assert [c.arguments["q"] for c, _ in tools.calls] == ["a", "b"]
    assert trajectory.calls == 2 and trajectory.stop is Stop.FORCED
    assert FINAL_REQUEST in policy.text(1)


def test_a_call_instead_of_the_forced_answer_is_no_answer(play):
    trajectory, _, tools = play([call(q="a"), call(q="b")], max_calls=1)
    assert (trajectory.stop, trajectory.calls, len(tools.calls)) == (Stop.NO_ANSWER, 1, 1)


def test_a_malformed_call_is_told_and_uses_up_the_budget(play):
    lines = ["<use_mcp_tool>oops", call(q="a") + call(q="b").replace("{", "["), "\\boxed{x}"]
    trajectory, policy, _ = play(lines, max_calls=3)
    assert (trajectory.malformed_calls, trajectory.calls, trajectory.failed_calls) == (2, 1, 0)
    assert "the tags do not form a whole call" in policy.text(1)
    assert "result\nmalformed call" in policy.text(2) and FINAL_REQUEST in policy.text(2)
    assert trajectory.stop is Stop.FORCED


def test_a_failure_is_an_observation(play):
    tools = Tools(lambda c: ToolResult("404: no such page", Failure.TOOL_ERROR))
    trajectory, policy, _ = play([call(q="a")] * 9 + ["\\boxed{x}"], tools, max_calls=20)
    assert (trajectory.stop, trajectory.calls, trajectory.failed_calls) == (Stop.ANSWERED, 9, 9)
    assert "404: no such page" in policy.text(1)


@pytest.mark.parametrize("kind", [Failure.NETWORK, Failure.DEADLINE])
def test_failures_that_are_not_the_models_fault_end_the_episode(play, kind):
    tools = Tools(lambda c: ToolResult("down", kind))
    trajectory, policy, _ = play([call(q="a")] * 20, tools, max_calls=20)
    assert (trajectory.stop, trajectory.answer) == (Stop.INFRASTRUCTURE, None)
    assert trajectory.calls == len(tools.calls) == OUTAGE
    assert sources(trajectory)[-1] is Source.POLICY and policy.forgotten == ["e"]
    assert trajectory.reason == "down"
    timeouts = {"timeouts": float(OUTAGE)} if kind is Failure.DEADLINE else {}
    assert trajectory.metrics == {"network_failures_in_a_row": float(OUTAGE)} | timeouts


def test_addresses_that_the_model_made_up_are_its_own_fault(play):
    tools = Tools(lambda c: ToolResult("cannot reach http://made-up.test/", Failure.UNREACHABLE))
    trajectory, _, _ = play([call(q="a")] * 9 + ["\\boxed{x}"], tools, max_calls=20)
    assert (trajectory.stop, trajectory.calls, trajectory.failed_calls) == (Stop.ANSWERED, 9, 9)
    assert trajectory.metrics == {"network_failures_in_a_row": 9.0}


@pytest.mark.parametrize("between", [Failure.UNREACHABLE, Failure.UNKNOWN_TOOL, Failure.INVALID_ARGUMENTS])
def test_what_does_not_reach_a_service_does_not_speak_for_it(play, between):
    """A network that is down looks like made-up hosts to a page's tool, but not to the search service's."""

    def answer(c):
        return ToolResult("down", Failure.NETWORK if len(tools.calls) % 2 else between)

    tools = Tools(answer)
    trajectory, _, _ = play([call(q="a")] * 20, tools, max_calls=20)
    assert (trajectory.stop, trajectory.calls) == (Stop.INFRASTRUCTURE, 2 * OUTAGE - 1)


def test_only_failures_in_a_row_count_as_broken_tools(play):
    def answer(c):
        down = len(tools.calls) % OUTAGE
        return ToolResult("down", Failure.NETWORK) if down else "fine"

    tools = Tools(answer)
    trajectory, _, _ = play([call(q="a")] * 10 + ["\\boxed{x}"], tools, max_calls=20)
    assert (trajectory.stop, trajectory.calls, trajectory.failed_calls) == (Stop.ANSWERED, 10, 8)
    assert trajectory.metrics == {"network_failures_in_a_row": OUTAGE - 1.0}
    # An answer to a failure is the service's, not the policy's.
    tools.calls.clear()
    trajectory, _, _ = play([call(q="a")] * 11 + ["\\boxed{x}"], tools, max_calls=20)
    assert (trajectory.stop, trajectory.answer, trajectory.reason) == (Stop.INFRASTRUCTURE, "x", "down")


def used(trajectory):
    return sum(len(s.tokens) for s in trajectory.segments)


@pytest.mark.parametrize("context", range(900, 1400, 50))
def test_a_context_that_fills_up_forces_the_answer(play, context):
    """Calls of 100 characters, results of 150: the answer is asked for in time, whatever the size."""
    lines = [call(q="a" * 20)] * 20

    class Obedient(Script):
        def next_line(self, request):
            return "\\boxed{x}" if FINAL_REQUEST in self.codec.decode(request.ids) else lines[0]

    trajectory, policy, _ = play(
        Obedient(lines), Tools(lambda c: "r" * 150), max_calls=50, context_tokens=context, turn_tokens=200,
        output_tokens=150,
    )  # fmt: skip
    assert (trajectory.stop, trajectory.answer) == (Stop.FORCED, "x")
    assert used(trajectory) <= context
    # It was not asked for needlessly early: one more free turn could have overflowed.
    before = used(trajectory) - len(policy.said[-1]) - len(policy.heard[-1][0])
    assert before + 150 + 2 * 200 + 150 + 2 * len(FINAL_REQUEST) + 200 > context


def test_results_that_leave_no_room_are_dropped(play):
    """Three calls in one turn bring more than the context holds."""
    trajectory, policy, _ = play(
        [call(q="a") * 3, "\\boxed{x}"], Tools(lambda c: "r" * 150), context_tokens=850, turn_tokens=150,
        output_tokens=150, max_calls=9,
    )  # fmt: skip
    assert "results dropped: the context is full" in policy.text(1) and "rrr" not in policy.text(1)
    assert (trajectory.stop, trajectory.calls) == (Stop.FORCED, 3)
    assert used(trajectory) <= 850


def test_a_prompt_that_leaves_no_room_for_a_turn(play):
    trajectory, policy, _ = play([], question="?" * 500, context_tokens=600, turn_tokens=100)
    assert (trajectory.stop, trajectory.answer, trajectory.segments) == (Stop.CONTEXT, None, ())
    assert policy.heard == [] and policy.forgotten == ["e"]


@pytest.mark.parametrize("error", [RuntimeError, asyncio.CancelledError])
def test_engine_and_tools_let_go_when_the_episode_breaks(play, error):
    class Broken(Script):
        def next_line(self, request):
            raise error

    engine, tools = Broken([]), Tools()
    with pytest.raises(error):
        play(engine, tools)
    assert engine.forgotten == ["e"] and tools.events[-1] == ("end", "e")


def test_an_engine_that_does_not_answer_is_infrastructure(play):
    class Down(Script):
        def next_line(self, request):
            if not self.lines:
                raise EngineError("HTTP 503 from the engine")
            return super().next_line(request)

    trajectory, engine, tools = play(Down([call(q="a")]))
    assert (trajectory.stop, trajectory.reason) == (Stop.INFRASTRUCTURE, "HTTP 503 from the engine")
    assert (trajectory.calls, len(trajectory.turns)) == (1, 1)
    assert engine.forgotten == ["e"] and tools.events[-1] == ("end", "e")


def test_tools_that_cannot_begin_are_infrastructure(play):
    class Full(Tools):
        async def begin(self, episode, files):
            raise ToolError(Failure.NETWORK, "no sandbox is left")

    trajectory, engine, tools = play([], Full())
    assert (trajectory.stop, trajectory.reason) == (Stop.INFRASTRUCTURE, "no sandbox is left")
    assert trajectory.segments == () and engine.requests == [] and tools.events == [("end", "e")]


@pytest.mark.parametrize("missing", [0, 1])
@pytest.mark.parametrize(
    ("more", "request_then"),
    [
        ({}, FINAL_REQUEST),
        ({"overflow": "drop"}, FINAL_REQUEST),
        ({"overflow": "drop", "restarts": 1}, FAILURE_REQUEST),
    ],
)
def test_the_least_context_has_room_for_two_turns_with_calls(play, missing, more, request_then):
    """With turns and results of full length; one token less, and the second turn is the one that is asked to end."""
    setting = dict(turn_tokens=400, output_tokens=150, max_calls=9) | more
    least = min_context_tokens(Setting(None, context_tokens=0, **setting), Chat(CODEC))
    lines = [THOUGHT + call(q="a"), THOUGHT + call(q="b"), *["\\boxed{x}"] * 2]
    lines[0] += "." * (400 - len(lines[0]) - 1)  # and <|im_end|>
    _, policy, _ = play(
        lines, Tools(lambda c: "r" * 150), question="", context_tokens=least - missing, **setting
    )
    assert (request_then in policy.text(1)) == bool(missing)


@pytest.mark.parametrize("missing", [0, 1])
def test_the_least_context_without_calls_has_room_for_the_answer(play, missing):
    setting = dict(turn_tokens=200, output_tokens=150, max_calls=0)
    least = min_context_tokens(Setting(None, context_tokens=0, **setting), Chat(CODEC))
    trajectory, _, _ = play(["\\boxed{x}"], question="", context_tokens=least - missing, **setting)
    assert trajectory.stop is (Stop.CONTEXT if missing else Stop.FORCED)
