"""The only maker of chat tokens: ChatML, as Qwen speaks it.

    <|im_start|>user\\nWhere is KTM?<|im_end|>\\n<|im_start|>assistant\\n<think>…</think>\\boxed{…}<|im_end|>

Unusual: tokens are made turn by turn and only ever appended. What the policy sampled stays as it was sampled,
thoughts of earlier turns are kept (Qwen3's own template drops them), and control tokens are put in by id,
so that no text can forge a turn. Nothing follows the last `<|im_end|>`: the newline after it belongs to the
next turn. A rollout (`prompt`, sampled ids, `observation`, …) and SFT (`render`) of the same episode give
the same ids. Calls are MiroThinker's (`<use_mcp_tool>`, results as plain user messages) or Qwen's own
(data/hermes.py).

Left out: tool schemas in the system prompt (agent/prompt.py or data/hermes.py writes them as text), images. Not
safe: an assistant message of a file is trusted; its tags become tag tokens, as if the policy had sampled them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mirothinker_jax.config import CALL_FORMATS, one_of
from mirothinker_jax.data.hermes import calls_text, message_ids, system_prompt
from mirothinker_jax.data.messages import DataError, Message, tool_calls
from mirothinker_jax.data.tokenizer import TextCodec
from mirothinker_jax.tools.spec import ToolCall, render_call


class Rendered(NamedTuple):
    """A conversation as tokens. `trained[t]` says whether token t is one that the model learns to give."""

    tokens: np.ndarray  # int32 [n]
    trained: np.ndarray  # bool [n]


class Chat:
    """Renders with one tokenizer.

    Args:
      servers: a tool's name → its server's, for `tool_calls` in files; "hermes" needs none.
      call_format: how calls and results are written, one of CALL_FORMATS.

    Raises:
      ConfigError: another call format.
    """

    def __init__(self, codec: TextCodec, servers: Mapping[str, str] | None = None, call_format: str = "mcp"):
        one_of("call_format", call_format, CALL_FORMATS)
        self._codec = codec
        self._servers = dict(servers or {})
        self._hermes = call_format == "hermes"
        self._newline = codec.encode("\n")
        self._headers = {
            role: [codec.im_start_id, *codec.encode(f"{role}\n")] for role in ("system", "user", "assistant")
        }

    def prompt(self, system: str | None, user: str) -> list[int]:
        """Ids of an episode's start, up to where the assistant's first turn begins."""
        ids = [] if system is None else [*self._said("system", system), *self._newline]
        return [*ids, *self._said("user", user), *self._newline, *self._headers["assistant"]]

    def observation(self, texts: Sequence[str], end: int | None = None) -> list[int]:
        """Ids between a sampled assistant turn, which ended itself, and the next one: `texts`, in one user message.

        `end` is the token that the turn ended by. After another one than `<|im_end|>` (a base model's `<|endoftext|>`,
        which stays, as it was sampled) the message is closed first.
        """
        close = [] if end in (None, self._codec.im_end_id) else [self._codec.im_end_id]
        return [
            *close,
            *self._newline,
            *self._said("tool", *texts),
            *self._newline,
            *self._headers["assistant"],
        ]

    def render(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None
    ) -> Rendered:
        """A whole conversation (as `messages.check_record` passes it) and what of it is trained.

        `tools` are the JSON schemas of a record's functions, which "hermes" lists in the system message.

        Trained are the content of every assistant message, its calls included, and the `<|im_end|>` that
        ends it; not the newline after that, no header, nothing that system, user or tool said, and no
        message with weight 0. Tool messages that follow one another become one user message: joined by
        newlines, or for "hermes" each in its `<tool_response>`.

        Raises:
          DataError: `field: what; way out`, for a call of a tool that has no server, or whose arguments are
            no JSON object; for `tools` where the format has no place for them.
        """
        if tools and not self._hermes:
            raise DataError(
                "tools: these schemas would be lost; set data.call_format=hermes, or write the tools into the "
                "system message and drop the field"
            )
        if tools:
            given = messages[0]["role"] == "system"
            system = system_prompt(messages[0]["content"] if given else None, tools)
            messages = [{"role": "system", "content": system}, *messages[given:]]
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
                add(self._said(message["role"], *(m["content"] for _, m in items)))
        return Rendered(np.asarray(ids, np.int32), np.asarray(trained, bool))

    def _said(self, role: str, *texts: str) -> list[int]:
        """One whole message of untrusted text; "tool" is the role of a turn's results."""
        codec = self._codec
        if self._hermes:
            return [codec.im_start_id, *message_ids(codec, role, texts), codec.im_end_id]
        header = self._headers["user" if role == "tool" else role]
        return [*header, *codec.encode_untrusted("\n".join(texts)), codec.im_end_id]

    def _assistant_text(self, message: Message, field: str) -> str:
        content = message.get("content") or ""
        if self._hermes:
            return content + calls_text(message, field)
        parts = [content]
        for where, name, arguments in tool_calls(message, field):
            if name not in self._servers:
                known = ", ".join(sorted(self._servers)) or "none"
                raise DataError(
                    f"{where}.function.name: no server is known for tool {name!r} (known: {known}); "
                    "name a tool of this run, set data.call_format=hermes (no servers), or write the call into content"
                )
            parts.append(render_call(ToolCall(self._servers[name], name, arguments)))
        return "".join(parts)
