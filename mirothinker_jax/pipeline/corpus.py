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
from mirothinker_jax.agent.episode import Setting, Task, run_episode
from mirothinker_jax.agent.expert import Expert, Plan, messages
from mirothinker_jax.agent.prompt import FINAL_REQUEST
from mirothinker_jax.agent.wire.formats import WIRES
from mirothinker_jax.config import Config
from mirothinker_jax.data.atomic import replacing
from mirothinker_jax.data.chat import Chat
from mirothinker_jax.data.conversations import ConversationSource
from mirothinker_jax.data.tokenizer import train_tokenizer
from mirothinker_jax.tools.executor import ToolExecutor
from mirothinker_jax.tools.hermes import tools_section
from mirothinker_jax.tools.spec import Tool
from mirothinker_jax.world.questions import Question

_UNBOUNDED = 1 << 20  # the expert counts characters, not the model's tokens
_SPARE_CALLS = 4  # beyond what the question needs, for recoveries; then the expert must give up
_CUT_SHORT = 0.1  # share of expert episodes with fewer calls than the question needs
_CORPUS_CHARS = 4_000_000  # enough for a toy vocabulary


def write_expert_episodes(
    path: Path, config: Config, questions: list[Question], tools: list[Tool], system: str | None, bar: Any
) -> None:
    """Plays one scripted episode per question through the real tools; writes {"messages": […]} JSONL, with `tools`
    where the call format lists them."""
    settings = dataclasses.replace(config.tools, output_tokens=_UNBOUNDED)
    codec = Characters()
    call_format = config.data.call_format
    chat = Chat(codec, call_format=call_format)
    functions = WIRES[call_format].functions([tool.spec for tool in tools])
    setting = Setting(
        system, config.agent.max_calls, _UNBOUNDED * 64, _UNBOUNDED, _UNBOUNDED, functions=functions
    )
    budgets = call_budgets(questions, config.sft.expert_calls, config.seed)

    async def play() -> list[dict[str, Any]]:
        gate = asyncio.Semaphore(config.tools.concurrency)
        async with ToolExecutor(tools, settings, codec.truncate) as executor:

            async def one(number: int, question: Question, max_calls: int) -> dict[str, Any]:
                plan = Plan(question.start, (*question.relations, question.attribute))
                async with gate:
                    trajectory = await run_episode(
                        Task(question.id, question.text, question.answer, question.hops),
                        policy=Expert(plan, config.sft.expert_mistake_rate, call_format),
                        executor=executor,
                        chat=chat,
                        decode=codec.decode,
                        setting=dataclasses.replace(setting, max_calls=max_calls),
                        episode_id=f"expert-{number}",
                        seed=config.seed * 1_000_003 + number,
                    )
                bar.update(1)
                return _record(messages(trajectory), system, functions)

            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(one(number, question, calls))
                    for number, (question, calls) in enumerate(zip(questions, budgets, strict=True))
                ]
        return [t.result() for t in tasks]

    records = asyncio.run(play())
    with replacing(path) as scratch:
        scratch.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), "utf-8")


def _record(
    conversation: list[dict[str, str]], system: str | None, functions: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """A training record. The list of tools, where the system message ends with it, is kept as `tools`."""
    if not functions:
        return {"messages": conversation}
    given = [{"role": "system", "content": system}] if system is not None else []
    return {"messages": [*given, *conversation[1:]], "tools": list(functions)}


def call_budgets(questions: Sequence[Question], most: int, seed: int) -> list[int]:
    """How many calls each question's expert may make: some more than it needs, but never more than `most`.

    Now and then it is fewer than it needs, so that the model also sees how an episode without calls left ends.
    """
    rng = random.Random(seed)
    budgets = []
    for question in questions:
        needed = question.hops + 2  # a search, a page per hop, and the page that answers
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
