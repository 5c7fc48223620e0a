"""What an episode runs under, and the room that it needs. `episode_setting` makes it of a run's config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mirothinker_jax.agent.context import KEEP_ALL, ContextPolicy
from mirothinker_jax.agent.policy import Chat
from mirothinker_jax.agent.prompt import (
    FAILURE_REQUEST,
    FINAL_REQUEST,
    RESTART_PROMPT,
    fill,
    system_prompt,
    template,
)
from mirothinker_jax.agent.wire.formats import WIRES
from mirothinker_jax.config import AgentConfig
from mirothinker_jax.tools.spec import ToolSpec


@dataclass(frozen=True)
class Setting:
    """What an episode runs under. Token counts are of this run's tokenizer; AgentConfig says what the rest means.

    `final_request`, `failure_request` and `restart_prompt` are templates of string.Template, which may hold $question,
    the last one also $failures.
    """

    system: str | None
    max_calls: int
    context_tokens: int
    turn_tokens: int
    output_tokens: int  # the executor's cap on one result
    functions: Sequence[Mapping[str, Any]] = ()  # schemas for the system message, where the chat writes them
    context: ContextPolicy = KEEP_ALL
    overflow: str = "reserve"
    final_answer: str = "forced"
    fallback: bool = False
    rollbacks: int = 0
    restarts: int = 0
    restart_with: str = "summary"
    outage_calls: int = 5
    final_request: str = FINAL_REQUEST
    failure_request: str = FAILURE_REQUEST
    restart_prompt: str = RESTART_PROMPT


def episode_setting(
    agent: AgentConfig, specs: Sequence[ToolSpec], output_tokens: int, call_format: str = "mcp"
) -> Setting:
    """The setting of a run whose agent has the tools `specs`, of which a result has at most `output_tokens`.

    Raises ConfigError for a template file that cannot be used.
    """
    specs = specs if agent.max_calls else ()
    return Setting(
        system=system_prompt(agent.system_prompt_file, specs, call_format, agent.date),
        max_calls=agent.max_calls,
        context_tokens=agent.context_tokens,
        turn_tokens=agent.turn_tokens,
        output_tokens=output_tokens,
        functions=WIRES[call_format].functions(specs),
        context=ContextPolicy(agent.keep_results, agent.high_results, agent.high_tokens),
        overflow=agent.overflow,
        final_answer=agent.final_answer,
        fallback=agent.fallback,
        rollbacks=agent.rollbacks,
        restarts=agent.restarts,
        restart_with=agent.restart_with,
        outage_calls=agent.outage_calls,
        final_request=template("final_prompt_file", agent.final_prompt_file, FINAL_REQUEST),
        failure_request=template("failure_prompt_file", agent.failure_prompt_file, FAILURE_REQUEST),
        restart_prompt=template(
            "restart_prompt_file", agent.restart_prompt_file, RESTART_PROMPT, ("failures",)
        ),
    )


def reserve(setting: Setting, chat: Chat, request: str) -> int:
    """Tokens that a free turn may cost before the last one: itself, a result with `request`, the last turn."""
    asked = len(chat.observation([], request=request))
    # Of "mcp", all that a result adds to the message is a newline.
    framed = len(chat.observation([""], request=request)) - 1
    return 2 * setting.turn_tokens + setting.output_tokens + max(asked, framed)


def min_context_tokens(setting: Setting, chat: Chat) -> int:
    """The context in which an agent can be sure of two turns with calls, but for what the question takes; without
    calls, of one turn."""
    requests = (fill(setting.final_request), fill(setting.failure_request))
    request = max(
        requests[: 1 + (setting.restarts > 0)], key=lambda text: len(chat.observation([], request=text))
    )
    if setting.max_calls == 0:
        return len(chat.prompt(setting.system, f"\n{request}", setting.functions)) + setting.turn_tokens
    prompt = len(chat.prompt(setting.system, "", setting.functions))
    call = setting.turn_tokens + setting.output_tokens
    if setting.overflow == "reserve":
        return prompt + call + len(chat.observation([""])) + reserve(setting, chat, request)
    return prompt + call + len(chat.observation([""], request=request)) + setting.turn_tokens
