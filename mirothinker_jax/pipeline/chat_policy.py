"""A policy that can be asked, and what belongs to it: of a chat endpoint, everything is counted in characters.

Left out: a run's own model.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any, NamedTuple, TypeVar

from mirothinker_jax.agent.characters import Characters
from mirothinker_jax.agent.chat_engine import ChatEngine, ChatSettings, open_chat_engine
from mirothinker_jax.agent.policy import Chat
from mirothinker_jax.config import AgentConfig, Config, ToolsConfig, check
from mirothinker_jax.data import chat
from mirothinker_jax.tools.build import SERVERS

T = TypeVar("T", AgentConfig, ToolsConfig)


class ChatPolicy(NamedTuple):
    """An endpoint's engine, and the same settings as the config's with tokens of `codec`, which are characters."""

    engine: ChatEngine
    codec: Characters
    chat: Chat
    agent: AgentConfig
    tools: ToolsConfig


async def open_chat_policy(settings: ChatSettings, config: Config) -> ChatPolicy:
    """The policy at `settings.url`, on this event loop. Close its engine.

    Raises ConfigError as open_chat_engine does, and where what is given is no URL.
    """
    check(
        re.match(r"https?://[^/\s]", settings.url) is not None,
        f"--policy is {settings.url!r}, and only a server's model can be asked: serve yours, and give the address as "
        "http://host:port/v1",
    )
    codec, call_format = Characters(), config.data.call_format
    engine = await open_chat_engine(settings, call_format, SERVERS, config.agent.context_tokens)
    return ChatPolicy(
        engine,
        codec,
        chat.Chat(codec, SERVERS, call_format),
        in_characters(config.agent, settings.chars_per_token),
        in_characters(config.tools, settings.chars_per_token),
    )


def in_characters(settings: T, chars_per_token: float) -> T:
    """`settings` with every count of tokens as one of characters.

    >>> in_characters(AgentConfig(context_tokens=1000, turn_tokens=10), 3.5).context_tokens
    3500
    """
    counts: dict[str, Any] = {
        field.name: int(getattr(settings, field.name) * chars_per_token)
        for field in dataclasses.fields(settings)
        if field.name.endswith("_tokens")
    }
    return dataclasses.replace(settings, **counts)
