"""Episodes as data: what is rendered of an exported record is what the policy was asked with and said."""

import asyncio
import dataclasses
import itertools
import json

import pytest

from mirothinker_jax.agent.characters import Characters
from mirothinker_jax.agent.context import ContextPolicy
from mirothinker_jax.agent.episode import run_episode
from mirothinker_jax.agent.policy import Turn
from mirothinker_jax.agent.setting import Setting
from mirothinker_jax.agent.wire.formats import WIRES
from mirothinker_jax.data.chat import Chat
from mirothinker_jax.data.conversations import Conversations
from mirothinker_jax.data.preference import render_pair
from mirothinker_jax.data.preference_files import open_pairs
from mirothinker_jax.data.templates import TEMPLATES
from mirothinker_jax.evals.export import Writing, pair_records, sft_records
from mirothinker_jax.tasks.types import Task
from mirothinker_jax.tools.spec import ToolCall, ToolResult
from mirothinker_jax.trajectory.types import Source, Stop

CODEC = Characters()
FUNCTIONS = (
    {"type": "function", "function": {"name": "look", "description": "d", "parameters": {"type": "object"}}},
)
SETTING = Setting("Answer.", max_calls=9, context_tokens=9000, turn_tokens=500, output_tokens=100)
THOUGHT = "<think>\nlook it up\n</think>\n\nI search."


class Tools:
    def __init__(self):
        self.results = itertools.count(1)

    def concurrent(self, call):
        return True

    def changes(self, call):
        return False

    async def begin(self, episode, files=()):
        pass

    async def end(self, episode):
        pass

    async def execute(self, call, request_id):
        return ToolResult(f"result {next(self.results)}")


def calls(call_format, *queries):
    return WIRES[call_format].render([ToolCall("web", "look", {"q": q}) for q in queries])


def play(lines, call_format="mcp", correct=True, name="e", cut=(), **setting):
    """An episode that says `lines`; those of the numbers in `cut` have no end."""
    numbered = enumerate(lines)

    class Script:
        async def generate(self, request):
            number, line = next(numbered)
            ids = (*CODEC.encode(line), *([] if number in cut else [CODEC.im_end_id]))
            return Turn(ids, (-0.5,) * len(ids), number not in cut)

        def forget(self, session):
            pass

    functions = FUNCTIONS if call_format == "hermes" else ()
    trajectory = asyncio.run(
        run_episode(
            Task("q", "Where?", "x"),
            engine=Script(),
            executor=Tools(),
            chat=Chat(CODEC, call_format=call_format),
            decode=CODEC.decode,
            setting=dataclasses.replace(SETTING, functions=functions, **setting),
            episode_id=name,
            seed=0,
        )
    )
    return dataclasses.replace(trajectory, correct=correct)


def writing(call_format="mcp", template="chatml"):
    chat = Chat(CODEC, call_format=call_format, template=TEMPLATES[template])

    def render(messages, tools):
        return chat.render(messages, tools).tokens

    functions = FUNCTIONS if call_format == "hermes" else ()
    return Writing(TEMPLATES[template], call_format, functions, (CODEC.im_end_id,), render)


def exported(trajectory, **how):
    records, note = sft_records([trajectory], writing(**how))
    return (records[0] if records else None), note


FORCED = {"max_calls": 3}  # the answer is asked for, behind results


@pytest.mark.parametrize("call_format", ["mcp", "hermes"])
@pytest.mark.parametrize("forced", [False, True])
def test_a_record_is_rendered_as_it_was_sampled(call_format, forced):
    lines = [THOUGHT + calls(call_format, "a"), f"See.{calls(call_format, 'b', 'c')}", "So \\boxed{x}"]
    trajectory = play(lines, call_format, **(FORCED if forced else {}))
    assert trajectory.stop is (Stop.FORCED if forced else Stop.ANSWERED) and trajectory.calls == 3
    record, note = exported(trajectory, call_format=call_format)
    assert note == "1 correct episodes"
    (canonical,) = [Conversations([record])[0]]
    rendered = Chat(CODEC, call_format=call_format).render(canonical["messages"], canonical.get("tools"))
    assert rendered.tokens.tolist() == [i for s in trajectory.segments for i in s.tokens]
    sampled = [s.source is Source.POLICY for s in trajectory.segments for _ in s.tokens]
    assert rendered.trained.tolist() == sampled
    thoughts = [m["reasoning_content"] for m in record["messages"] if "reasoning_content" in m]
    assert thoughts == ["look it up"]
    assert [m["role"] for m in record["messages"]][:4] == ["system", "user", "assistant", "tool"]


def test_a_thought_that_the_template_would_write_otherwise_stays_in_the_text():
    record, note = exported(play(["<think>hm</think>\\boxed{x}"]))
    assert record["messages"][-1] == {"role": "assistant", "content": "<think>hm</think>\\boxed{x}"}
    # Qwen3's tidies it, and the note says that other tokens are trained.
    record, note = exported(play(["<think>hm</think>\\boxed{x}"]), template="qwen3")
    assert note == "1 correct episodes; 1 of them become other tokens than were sampled"


def test_a_thought_that_the_prompt_opened_comes_apart():
    record, _ = exported(play(["hm\n</think>\n\n\\boxed{x}"]), template="qwen3-thinking-2507")
    message = {"role": "assistant", "reasoning_content": "hm", "content": "\\boxed{x}"}
    assert record["messages"][-1] == message


def test_of_an_edited_context_the_whole_last_attempt_is_exported():
    """Results that later turns did not see are there as they came; turns taken back and earlier attempts are not."""
    lines = [
        "I give up.",  # the first attempt's, which the summary ends
        "It failed.",
        calls("mcp", "a"),
        "<use_mcp_tool>broken</use_mcp_tool>",  # taken back
        calls("mcp", "b"),
        calls("mcp", "c"),
        "\\boxed{x}",
    ]
    trajectory = play(lines, context=ContextPolicy(keep=1), rollbacks=1, restarts=1, final_answer="forced")
    assert trajectory.answer == "x" and not trajectory.linear
    assert any(s.source is Source.PLACEHOLDER for s in trajectory.segments)
    record, note = exported(trajectory)
    said = [m["content"] for m in record["messages"] if m["role"] == "assistant"]
    assert said == [calls("mcp", "a"), calls("mcp", "b"), calls("mcp", "c"), "\\boxed{x}"]
    assert [m["content"] for m in record["messages"] if m["role"] == "tool"] == [
        f"result {n}" for n in (1, 2, 3)
    ]
    assert "It failed." in record["messages"][1]["content"]
    assert "other tokens" not in note


@pytest.mark.parametrize(
    ("trajectory", "said"),
    [
        (lambda: play(["\\boxed{x}"], correct=False), "0 correct episodes"),
        (lambda: play(["\\boxed{x}"], correct=None), "0 correct episodes"),
        (lambda: play(["\\boxed{x}", "no"], final_answer="always", fallback=True), "an earlier turn"),
        (lambda: play(["ok", "\\boxed{x}"], final_answer="always", cut=(1,)), "a turn that was cut"),
        (lambda: play([*[calls("mcp", "a")] * 3, "\\boxed{x}"]), "2 calls made again at once"),
    ],
)
def test_what_is_not_to_be_learned_from_is_left_out_and_said(trajectory, said):
    record, note = exported(trajectory())
    assert record is None and said in note


def test_pairs_are_correct_against_wrong_and_train_what_was_sampled(tmp_path):
    right = [play([calls("mcp", f"a{n}"), "\\boxed{x}"], name=f"r{n}") for n in range(2)]
    wrong = [play([calls("mcp", f"b{n}"), "\\boxed{y}"], correct=False, name=f"w{n}") for n in range(3)]
    records, note = pair_records([*right, *wrong], writing(), per_question=8, seed=0)
    assert note == "2 pairs"
    by_name = {t.id: t for t in (*right, *wrong)}
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    for pair in open_pairs(str(tmp_path / "p.jsonl")).pairs:
        made, metadata = render_pair(pair, Chat(CODEC)), pair.chosen["metadata"]
        for side in ("chosen", "rejected"):
            segments = by_name[metadata[side]].segments
            tokens = [i for s in segments for i in s.tokens]
            assert (
                [*made.prompt.tolist(), *getattr(made, side).tokens.tolist()]
                == tokens
                == metadata["tokens"][side]
            )
            trained = [s.source is Source.POLICY for s in segments[1:] for _ in s.tokens]
            assert getattr(made, side).trained.tolist() == trained
    # An endpoint's tokens are nobody's.
    records, _ = pair_records([*right, *wrong], dataclasses.replace(writing(), render=None), 8, 0)
    assert "tokens" not in records[0]["metadata"]
