"""OpenAI's messages and this project's text: prompts from messages and tools, and a message from what was sampled.

Thoughts come back as `reasoning_content`, calls as `tool_calls`. Both are taken off only where they are whole: a turn
whose call cannot be read keeps it as content, as nothing that was sampled should be lost.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mirothinker_jax.agent.prompt import system_prompt
from mirothinker_jax.agent.wire.formats import WIRES
from mirothinker_jax.config import ConfigError
from mirothinker_jax.data.chat import Chat
from mirothinker_jax.data.messages import DataError, canonical_message
from mirothinker_jax.serving.errors import bad
from mirothinker_jax.serving.policy import Served
from mirothinker_jax.tools.spec import ToolCall, ToolSpec

SERVER = "tools"  # in the call format that has servers, of tools that the model was not trained with
_BEGINS = ("<tool_call>", "<use_mcp_tool>")  # a call
_TAGS = (*_BEGINS, "<think>", "</think>")
# What OpenAI's clients send back with a message of ours, and no template renders.
_ECHOED = frozenset({"refusal", "annotations", "audio", "function_call"})


@dataclass(frozen=True)
class Said:
    """A turn, or as much of it as is certain. `reasoning` is None where there is no thought."""

    reasoning: str | None
    content: str
    calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True)
class Conversation:
    """A prompt, and how the turn that follows is read."""

    ids: tuple[int, ...]
    call_format: str  # "" where the request has no tools
    opens_thought: bool

    def whole(self, text: str) -> Said:
        """What a whole turn says."""
        reasoning, rest = self._split(text)
        if not self.call_format:
            return Said(reasoning, rest)
        parsed = WIRES[self.call_format].parse(text).calls
        calls = tuple(call for call in parsed if isinstance(call, ToolCall))
        if not calls or len(calls) < len(parsed):
            return Said(reasoning, rest)
        return Said(reasoning, _before_call(rest).rstrip(), calls)

    def so_far(self, text: str) -> Said:
        """What is certain of a turn that goes on: what `whole` says in the end begins so."""
        text = text.rstrip("\ufffd")  # a character of which some bytes are still to come
        for size in range(max(map(len, _TAGS)) - 1, 0, -1):
            if any(tag.startswith(text[-size:]) for tag in _TAGS if len(tag) > size <= len(text)):
                text = text[:-size]
                break
        reasoning, rest = self._split(text)
        if self.call_format:
            rest = _before_call(rest)
        return Said(None if reasoning is None else reasoning.rstrip("\n"), rest.rstrip())

    def _split(self, text: str) -> tuple[str | None, str]:
        """(thought, what follows it)."""
        before, tag, after = text.partition("</think>")
        opened = before.lstrip().startswith("<think>")
        if not tag and not opened and not self.opens_thought:
            return None, text
        return before.lstrip().removeprefix("<think>").strip("\n"), after.lstrip("\n")


def _before_call(text: str) -> str:
    places = [place for tag in _BEGINS if (place := text.find(tag)) >= 0]
    return text[: min(places)] if places else text


def open_conversation(served: Served, messages: Any, tools: Any) -> Conversation:
    """Raises ApiError for what is no conversation, or no list of tools."""
    specs = [_spec(served, tool, f"tools[{i}]") for i, tool in enumerate(_list(tools, "tools"))]
    given = _list(messages, "messages")
    if not given:
        raise bad("messages is empty; give at least one", "messages")
    try:
        said = [canonical_message(m, f"messages[{i}]", _ECHOED) for i, m in enumerate(given)]
        servers = {name: served.servers.get(name, SERVER) for name in _called(said)}
        chat = Chat(served.codec, servers, served.call_format)
        functions: Sequence[Any] = []
        if specs and chat.call_format == "hermes":
            functions = _list(tools, "tools")
        elif specs:
            said = _with_tools(said, specs, chat.call_format)
        ids = [*chat.render(said, functions).tokens.tolist(), *turn_start(chat)]
    except DataError as error:
        text = (
            str(error)
            .partition(", or drop it with data.ignore")[0]
            .partition("; drop it with data.ignore")[0]
        )
        raise bad(text, text.partition(":")[0]) from None
    except ConfigError as error:
        raise bad(str(error)) from None
    return Conversation(tuple(ids), chat.call_format if specs else "", chat.template.opens_thought)


def turn_start(chat: Chat) -> list[int]:
    """Ids between a whole message and the assistant's turn after it."""
    return list(chat.observation([]))


def tool_calls(calls: Sequence[ToolCall], indexed: bool = False) -> list[dict[str, Any]]:
    """As OpenAI writes them, each with an id of its own; with its number where they are `indexed`, as in a stream."""

    return [
        ({"index": i} if indexed else {})
        | {
            "id": f"call_{secrets.token_hex(12)}",
            "type": "function",
            "function": {
                "name": call.tool,
                "arguments": json.dumps(dict(call.arguments), ensure_ascii=False),
            },
        }
        for i, call in enumerate(calls)
    ]


def _with_tools(
    said: list[dict[str, Any]], specs: Sequence[ToolSpec], call_format: str
) -> list[dict[str, Any]]:
    """The tools in the words of the built-in system prompt, before the request's own."""
    prompt = system_prompt("", specs, call_format) or ""
    if said[0]["role"] != "system":
        return [{"role": "system", "content": prompt}, *said]
    return [{"role": "system", "content": f"{prompt}\n\n{said[0]['content']}"}, *said[1:]]


def _called(messages: Sequence[dict[str, Any]]) -> list[str]:
    calls = [call for message in messages for call in message.get("tool_calls") or ()]
    return [call["function"]["name"] for call in calls]


def _spec(served: Served, tool: Any, where: str) -> ToolSpec:
    function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise bad(
            f'{where} must be {{"type": "function", "function": {{"name": …, "parameters": …}}}}', where
        )
    description, parameters = function.get("description") or "", function.get("parameters") or {}
    if not isinstance(description, str) or not isinstance(parameters, dict):
        raise bad(f"{where}.function: description must be a text and parameters an object", where)
    name = function["name"]
    return ToolSpec(served.servers.get(name, SERVER), name, description, parameters)


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list) and value is not None:
        raise bad(f"{name} must be a list", name)
    return value or []
