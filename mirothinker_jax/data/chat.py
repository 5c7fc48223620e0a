"""The only maker of chat tokens: ChatML, as Qwen speaks it.

    <|im_start|>user\\nWhere is KTM?<|im_end|>\\n<|im_start|>assistant\\n<think>…</think>\\boxed{…}<|im_end|>

Unusual: tokens are made turn by turn and only ever appended. What the policy sampled stays as it was sampled,
thoughts of earlier turns are kept (Qwen3's own template drops them), and control tokens are put in by id,
so that no text can forge a turn. Nothing follows the last `<|im_end|>`: the newline after it belongs to the
next turn. A rollout (`prompt`, sampled ids, `observation`, …) and SFT (`render`) of the same episode give
the same ids.

Left out: tool schemas in the system prompt (agent/prompt.py writes them as text), images. Not safe: an
assistant message of a file is trusted; its tags become tag tokens, as if the policy had sampled them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mirothinker_jax.data.messages import DataError, Message, tool_calls
from mirothinker_jax.data.tokenizer import TextCodec
from mirothinker_jax.tools.spec import ToolCall, render_call


class Rendered(NamedTuple):
    """A conversation as tokens. `trained[t]` says whether token t is one that the model learns to give."""

    tokens: np.ndarray  # int32 [n]
    trained: np.ndarray  # bool [n]


class Chat:
    """Renders with one tokenizer. `servers` maps a tool's name to its server's, for `tool_calls` in files."""

    def __init__(self, codec: TextCodec, servers: Mapping[str, str] | None = None):
        self._codec = codec
        self._servers = dict(servers or {})
        self._newline = codec.encode("\n")
        self._headers = {
            role: [codec.im_start_id, *codec.encode(f"{role}\n")] for role in ("system", "user", "assistant")
        }

    def prompt(self, system: str | None, user: str) -> list[int]:
        """Ids of an episode's start, up to where the assistant's first turn begins."""
        ids = [] if system is None else [*self._said("system", system), *self._newline]
        return [*ids, *self._said("user", user), *self._newline, *self._headers["assistant"]]

    def observation(self, texts: Sequence[str]) -> list[int]:
        """Ids between a sampled assistant turn, which ended itself, and the next one: `texts`, in one user message."""
        return [
            *self._newline,
            *self._said("user", "\n".join(texts)),
            *self._newline,
            *self._headers["assistant"],
        ]

    def render(self, messages: Sequence[Message]) -> Rendered:
        """A whole conversation (as `messages.check_record` passes it) and what of it is trained.

        Trained are the content of every assistant message, its calls included, and the `<|im_end|>` that
        ends it; not the newline after that, no header, nothing that system, user or tool said, and no
        message with weight 0. Tool messages that follow one another become one user message, joined by
        newlines.

        Raises:
          DataError: `field: what; way out`, for a call of a tool that has no server, or whose arguments are
            no JSON object.
        """
        ids: list[int] = []
        trained: list[bool] = []

        def add(new: Sequence[int], train: bool = False) -> None:
            ids.extend(new)
            trained.extend(itertools.repeat(train, len(new)))

        groups = itertools.groupby(
            enumerate(messages), lambda item: -1 if item[1]["role"] == "tool" else item[0]
        )
        for _, group in groups:
            items = list(group)
            index, message = items[0]
            add(self._newline if ids else [])
            if message["role"] == "assistant":
                add(self._headers["assistant"])
                text = self._assistant_text(message, f"messages[{index}]")
                add([*self._codec.encode(text), self._codec.im_end_id], bool(message.get("weight", 1)))
            else:
                role = "system" if message["role"] == "system" else "user"
                add(self._said(role, "\n".join(m["content"] for _, m in items)))
        return Rendered(np.asarray(ids, np.int32), np.asarray(trained, bool))

    def _said(self, role: str, text: str) -> list[int]:
        """One whole message of untrusted text."""
        return [*self._headers[role], *self._codec.encode_untrusted(text), self._codec.im_end_id]

    def _assistant_text(self, message: Message, field: str) -> str:
        parts = [message.get("content") or ""]
        for where, name, arguments in tool_calls(message, field):
            if name not in self._servers:
                known = ", ".join(sorted(self._servers)) or "none"
                raise DataError(
                    f"{where}.function.name: no server is known for tool {name!r} (known: {known}); "
                    "name a tool of this run, or write the call into content"
                )
            parts.append(render_call(ToolCall(self._servers[name], name, arguments)))
        return "".join(parts)
