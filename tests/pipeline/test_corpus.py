"""The experts of the SFT corpus: how many calls they may make, and that they answer what they are asked."""

import json

import pytest

from mirothinker_jax.config import AgentConfig, Config, DataConfig, SFTConfig, ToolsConfig, WorldConfig
from mirothinker_jax.data.conversations import Conversations, open_conversations
from mirothinker_jax.pipeline import corpus
from mirothinker_jax.pipeline.corpus import call_budgets, write_expert_episodes
from mirothinker_jax.tasks.rules import is_correct
from mirothinker_jax.tasks.types import Task
from mirothinker_jax.tools.build import build_tools
from mirothinker_jax.world.environment import WorldEnvironment
from mirothinker_jax.world.server import WorldServer

# Of the agent's contexts; the expert's conversations stay whole.
EDITS = dict(keep_results=1, rollbacks=2, restarts=1, final_answer="always")


def asked(hops):
    return Task("q", "?", metadata={"hops": hops})


class Bar:
    count = 0

    def update(self, count):
        self.count += count


def test_most_experts_have_calls_to_spare_and_none_more_than_the_limit():
    questions = [asked(hops) for hops in range(7)] * 300
    budgets = call_budgets(questions, most=6, seed=3)
    assert budgets == call_budgets(questions, most=6, seed=3) != call_budgets(questions, most=6, seed=4)
    assert max(budgets) == 6 and min(budgets) == 0
    enough = [calls >= q.metadata["hops"] + 2 for q, calls in zip(questions, budgets, strict=True)]
    deep = [q.metadata["hops"] > 4 for q in questions]
    assert not any(e and d for e, d in zip(enough, deep, strict=True)), "six calls are four hops"
    shallow = [e for e, d in zip(enough, deep, strict=True) if not d]
    assert 0.87 < sum(shallow) / len(shallow) < 0.93  # a tenth is cut short


def test_a_limit_of_no_calls():
    assert call_budgets([asked(2)] * 5, most=0, seed=0) == [0] * 5


@pytest.mark.parametrize(("source", "call_format"), [("airports", "mcp"), ("countries", "hermes")])
def test_experts_with_enough_calls_give_the_right_answers(tmp_path, source, call_format):
    """On the real web of each source, by real HTTP, without its noise."""
    (tmp_path / "system.txt").write_text("Answer.")
    settings = WorldConfig(
        sources=(source,), max_hops=2, wrong_first_hit=0, dead_link=0, failing_call=0, slow_call=0
    )
    config = Config(
        world=settings,
        tools=ToolsConfig(names=("google_search", "scrape_and_extract_info")),
        agent=AgentConfig(max_calls=8, system_prompt_file=str(tmp_path / "system.txt"), **EDITS),
        sft=SFTConfig(expert_mistake_rate=0.0, expert_calls=8),
        data=DataConfig(call_format=call_format),
    )
    tasks = WorldEnvironment(settings, 0, None, list).tasks("train", 30, 0)
    path, bar = tmp_path / "expert.jsonl", Bar()
    with WorldServer(settings, 0) as server:
        tools = build_tools(config.tools, server.proxy_url, "")
        write_expert_episodes(path, config, tasks, tools, bar)
    assert bar.count == len(open_conversations(str(path))) == 30
    budgets = call_budgets(tasks, most=8, seed=config.seed)
    system, *_ = json.loads(path.read_text().splitlines()[0])["messages"]
    assert system == {"role": "system", "content": "Answer."}  # the chat lists the tools of "hermes"
    free = 0
    for line, task, calls in zip(path.read_text().splitlines(), tasks, budgets, strict=True):
        said = json.loads(line)["messages"][-1]["content"]
        if calls >= task.metadata["hops"] + 2:
            answer = said.partition("\\boxed{")[2].removesuffix("}")
            assert is_correct(task.answer, answer), (task, said)
            free += 1
        else:
            assert said.endswith("\\boxed{unknown}")
    assert free > 20


def test_the_tokenizer_learns_from_all_that_becomes_tokens(tmp_path, monkeypatch):
    call = {"function": {"name": "find", "arguments": {"where": "é"}}}
    turn = {"role": "assistant", "content": None, "reasoning": "a thought", "tool_calls": [call]}
    schema = {"type": "function", "function": {"name": "find", "description": "Finds é."}}
    records = Conversations([{"messages": [{"role": "user", "content": "q"}, turn], "tools": [schema]}])
    learned = []
    monkeypatch.setattr(corpus, "train_tokenizer", lambda texts, *_: learned.extend(texts))
    corpus.train_run_tokenizer(tmp_path / "my.model", records, Config())
    assert any('"description": "Finds é."' in text for text in learned)
    assert set(learned) >= {"q", "a thought", "find", '{"where": "é"}'}
