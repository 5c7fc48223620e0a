"""The call formats that an agent speaks, by the names that data.call_format has for them.

"mcp" is MiroThinker's, "hermes" Qwen's own. Tokens are data/chat.py's affair, which writes results and the prompt in
the same format.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mirothinker_jax.agent.wire import hermes, mcp
from mirothinker_jax.agent.wire.turn import Grammar, ParsedTurn, Stretch, read_turn, split_turn
from mirothinker_jax.config import check
from mirothinker_jax.tools import hermes as hermes_text
from mirothinker_jax.tools.spec import ToolCall, ToolSpec, render_calls

_PROMPTS = Path(__file__).parents[1]


@dataclass(frozen=True)
class Wire:
    """A call format.

    Attributes:
      grammar: what is a call in an assistant turn.
      render: calls → the text of them that follows what a turn says; `parse` gives them back.
      prompt_file: the built-in template of the system message.
      function: a tool → its schema, where the chat lists the tools at the end of the system message; None where the
        template's $tools does.
    """

    grammar: Grammar
    render: Callable[[Sequence[ToolCall]], str]
    prompt_file: Path
    function: Callable[[ToolSpec], Mapping[str, Any]] | None = None

    def parse(self, text: str) -> ParsedTurn:
        """The calls and the words of an assistant turn. Stray tags are Malformed only where there is no call. Raises
        nothing.

        >>> WIRES["mcp"].parse("<think>a or b?</think>It is b.")
        ParsedTurn(calls=(), words='It is b.')
        >>> WIRES["hermes"].parse('so: <tool_call>{"name": "run", "arguments": {}}</tool_call>')
        ParsedTurn(calls=(ToolCall(server='', tool='run', arguments={}),), words='so: ')
        """
        return read_turn(text, self.grammar)

    def stretches(self, text: str) -> list[Stretch]:
        """All of an assistant turn in its order, thoughts too, for a reader."""
        return split_turn(text, self.grammar)

    def functions(self, specs: Sequence[ToolSpec]) -> list[Mapping[str, Any]]:
        """The schemas that the chat lists; none where the template lists the tools.

        Raises ConfigError for two tools of one name, which this format could not tell apart.
        """
        if not self.function:
            return []
        twice = [name for name, count in Counter(spec.name for spec in specs).items() if count > 1]
        check(
            not twice,
            f"two tools are called {', '.join(twice)}, and data.call_format=hermes knows no servers to tell them apart "
            "by; leave one of them out, or set data.call_format=mcp",
        )
        return [self.function(spec) for spec in specs]


def call_keys(call_format: str) -> Callable[[str], list[str]]:
    """From what an assistant message says to a string for each of its whole calls, equal for the same tool with the
    same arguments in whatever order."""
    parse = WIRES[call_format].parse

    def keys(text: str) -> list[str]:
        calls = (call for call in parse(text).calls if isinstance(call, ToolCall))
        return [json.dumps([call.server, call.tool, dict(call.arguments)], sort_keys=True) for call in calls]

    return keys


WIRES = {
    "mcp": Wire(mcp.GRAMMAR, render_calls, _PROMPTS / "system_prompt.txt"),
    "hermes": Wire(
        hermes.GRAMMAR,
        hermes_text.render_calls,
        _PROMPTS / "system_prompt_hermes.txt",
        hermes_text.function_schema,
    ),
}
