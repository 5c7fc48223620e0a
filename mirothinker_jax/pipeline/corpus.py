"""What comes before training: the expert's episodes and a tokenizer trained on the corpus."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mirothinker_jax.agent.characters import Characters
from mirothinker_jax.agent.context import KEEP_ALL
from mirothinker_jax.agent.expert import Expert, Plan, messages
from mirothinker_jax.agent.prompt import FINAL_REQUEST
from mirothinker_jax.agent.setting import Setting, episode_setting
from mirothinker_jax.config import Config
from mirothinker_jax.data.atomic import write_json_lines
from mirothinker_jax.data.chat import Chat
from mirothinker_jax.data.conversations import ConversationSource
from mirothinker_jax.data.tokenizer import train_tokenizer
from mirothinker_jax.rollout.collect import EpisodeSpec, Runtime, collect
from mirothinker_jax.tasks.graders import by_rule
from mirothinker_jax.tasks.rules import is_correct
from mirothinker_jax.tasks.types import Task
from mirothinker_jax.tools.executor import ToolExecutor
from mirothinker_jax.tools.hermes import tools_section
from mirothinker_jax.tools.spec import Tool
from mirothinker_jax.trajectory.journal import History, Journal
from mirothinker_jax.trajectory.types import Stop, Trajectory

_UNBOUNDED = 1 << 20  # the expert counts characters, not the model's tokens
_SPARE_CALLS = 4  # beyond what the question needs, for recoveries; then the expert must give up
_CUT_SHORT = 0.1  # share of expert episodes with fewer calls than the question needs
_CORPUS_CHARS = 4_000_000  # enough for a toy vocabulary


def write_expert_episodes(
    path: Path, config: Config, tasks: Sequence[Task], tools: Sequence[Tool], bar: Any
) -> None:
    """Plays one scripted episode per task through the real tools; writes {"messages": […]} JSONL, with `tools`
    where the call format lists them. A journal beside it has the episodes, so one that was stopped goes on."""
    settings = dataclasses.replace(config.tools, output_tokens=_UNBOUNDED)
    codec, call_format = Characters(), config.data.call_format
    agent = dataclasses.replace(config.agent, context_tokens=_UNBOUNDED * 64, turn_tokens=_UNBOUNDED)
    given = episode_setting(agent, [tool.spec for tool in tools], _UNBOUNDED, call_format)
    # What is learned from is one whole conversation, however the agent's own contexts are edited.
    setting = dataclasses.replace(
        given, context=KEEP_ALL, overflow="reserve", final_answer="forced", rollbacks=0, restarts=0
    )
    budgets = call_budgets(tasks, config.sft.expert_calls, config.seed)
    specs = [
        EpisodeSpec(f"expert-{number}", task, config.seed * 1_000_003 + number, budget)
        for number, (task, budget) in enumerate(zip(tasks, budgets, strict=True))
    ]
    plans = {task.question: Plan(task.metadata["start"], tuple(task.metadata["reads"])) for task in tasks}
    engine = Expert(plans.__getitem__, config.sft.expert_mistake_rate, call_format, config.seed)

    async def play() -> list[Trajectory]:
        async with ToolExecutor(tools, settings, codec.truncate) as executor:
            runtime = Runtime(
                executor=executor,
                chat=Chat(codec, call_format=call_format),
                decode=codec.decode,
                setting=setting,
                grader=by_rule(is_correct),
                concurrency=config.tools.concurrency,
                tries=config.tasks.tries,
                broken_share=config.tasks.broken_share,
            )
            with Journal(journal) as written:
                return await collect(
                    specs,
                    engine=engine,
                    runtime=runtime,
                    journal=written,
                    history=History(journal),
                    done=lambda _: bar.update(1),
                )

    journal = path.with_name("expert_episodes.jsonl")
    episodes = asyncio.run(play())
    records = [_record(messages(t), setting) for t in episodes if t.stop is not Stop.INFRASTRUCTURE]
    write_json_lines(path, records)


def _record(conversation: list[dict[str, str]], setting: Setting) -> dict[str, Any]:
    """A training record. The list of tools, where the system message ends with it, is kept as `tools`."""
    if not setting.functions:
        return {"messages": conversation}
    given = [{"role": "system", "content": setting.system}] if setting.system is not None else []
    return {"messages": [*given, *conversation[1:]], "tools": list(setting.functions)}


def call_budgets(tasks: Sequence[Task], most: int, seed: int) -> list[int]:
    """How many calls each task's expert may make: some more than it needs, but never more than `most`.

    Now and then it is fewer than it needs, so that the model also sees how an episode without calls left ends.
    """
    rng = random.Random(seed)
    budgets = []
    for task in tasks:
        needed = task.metadata["hops"] + 2  # a search, a page per hop, and the page that answers
        short = rng.random() < _CUT_SHORT
        calls = rng.randint(0, needed - 1) if short else needed + _SPARE_CALLS
        budgets.append(min(calls, most))
    return budgets


def train_run_tokenizer(path: Path, conversations: ConversationSource, config: Config) -> None:
    """A tokenizer for this run, from its own conversations."""

    def texts() -> Iterator[str]:
        yield FINAL_REQUEST
        chars = 0
        for record in (conversations[i] for i in range(len(conversations))):
            listed = [tools_section("", record["tools"]) or ""] if "tools" in record else []
            for text in itertools.chain(listed, *map(_texts, record["messages"])):
                chars += len(text)
                yield text
            if chars > _CORPUS_CHARS:
                return

    train_tokenizer(texts(), path, config.tokenizer, config.data.call_format)


def _texts(message: Mapping[str, Any]) -> Iterator[str]:
    """What of a canonical message becomes tokens, however the call format joins it."""
    yield message.get("reasoning_content", "")
    yield message["content"] or ""
    for call in message.get("tool_calls", ()):
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        yield name
        yield arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
