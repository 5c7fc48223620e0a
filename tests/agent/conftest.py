"""An episode played by a scripted engine with scripted tools."""

import asyncio

import pytest
from scripted import CODEC, Script, Tools

from mirothinker_jax.agent.episode import run_episode
from mirothinker_jax.agent.setting import Setting
from mirothinker_jax.data.chat import Chat
from mirothinker_jax.data.hf_tokenizer import HFTokenizer
from mirothinker_jax.tasks.types import Task


@pytest.fixture(scope="session")
def qwen(qwen_folder):
    """Qwen3's real tokenizer."""
    return HFTokenizer(qwen_folder)


@pytest.fixture
def play():
    """(lines or engine, tools, …fields of Setting) → (trajectory, engine, tools)."""

    def run(engine, tools=None, codec=CODEC, question="Where is KTM?", seed=5, call_format="mcp", **fields):
        engine = engine if hasattr(engine, "generate") else Script(engine, codec)
        tools = tools or Tools()
        given = dict(system=None, max_calls=8, context_tokens=10_000, turn_tokens=300, output_tokens=200)
        trajectory = asyncio.run(
            run_episode(
                Task("q", question, "Kathmandu", ("a.pdf",), {"hops": 2}),
                engine=engine,
                executor=tools,
                chat=Chat(codec, call_format=call_format),
                decode=codec.decode,
                setting=Setting(**(given | fields)),
                episode_id="e",
                seed=seed,
            )
        )
        return trajectory, engine, tools

    return run
