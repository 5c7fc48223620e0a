"""An episode played by a scripted policy with scripted tools."""

import asyncio

import pytest
from scripted import CODEC, Script, Tools

from mirothinker_jax.agent.episode import Setting, Task, run_episode
from mirothinker_jax.data.chat import Chat
from mirothinker_jax.data.hf_tokenizer import HFTokenizer


@pytest.fixture(scope="session")
def qwen(qwen_folder):
    """Qwen3's real tokenizer."""
    return HFTokenizer(qwen_folder)


@pytest.fixture
def play():
    """(lines or policy, tools, …fields of Setting) → (trajectory, policy, tools)."""

    def run(policy, tools=None, codec=CODEC, question="Where is KTM?", seed=5, call_format="mcp", **fields):
        policy = policy if hasattr(policy, "open") else Script(policy, codec)
        tools = tools or Tools()
        given = dict(system=None, max_calls=8, context_tokens=10_000, turn_tokens=300, output_tokens=200)
        trajectory = asyncio.run(
            run_episode(
                Task("q", question, "Kathmandu", hops=2),
                policy=policy,
                executor=tools,
                chat=Chat(codec, call_format=call_format),
                decode=codec.decode,
                setting=Setting(**(given | fields)),
                episode_id="e",
                seed=seed,
            )
        )
        return trajectory, policy, tools

    return run
