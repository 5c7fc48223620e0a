"""The only maker of chat tokens: ChatML, as the families of Qwen speak it (data/templates.py).

    <|im_start|>user\\nWhere is KTM?<|im_end|>\\n<|im_start|>assistant\\n<think>…</think>\\boxed{…}<|im_end|>

Unusual: tokens are made turn by turn and only ever appended. What the policy sampled stays as it was sampled,
thoughts of earlier turns are kept (Qwen3's own template drops them), and control tokens are put in by id,
so that no text can forge a turn. Nothing follows the last `<|im_end|>`: the newline after it belongs to the
next turn. A rollout (`prompt`, sampled ids, `observation`, …) and SFT (`render`) of the same episode give
the same ids. Calls are MiroThinker's (`<use_mcp_tool>`, results as plain user messages) or Qwen's own
(data/hermes.py).

A message is encoded together with its header, as the official template's text is: in Qwen's vocabulary the
header's newline and one that a text begins with are one token. Where such a token has a part of an assistant's
text, it is not trained: a policy starts after a prompt that ends with the header's own newline, and cannot sample it.

Left out: tool schemas in the system prompt of "mcp" (agent/prompt.py writes them as text), images. Not safe: an
assistant message of a file is trusted; its tags become tag tokens, as if the policy had sampled them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mirothinker_jax.config import CALL_FORMATS, check, one_of
from mirothinker_jax.data.hermes import calls_text, message_ids
from mirothinker_jax.data.messages import DataError, Message, tool_calls
from mirothinker_jax.data.templates import CHATML, Template, assistant_text, has_question
from mirothinker_jax.data.tokenizer import ByteCodec, TextCodec
from mirothinker_jax.tools.hermes import tools_section
from mirothinker_jax.tools.spec import ToolCall, render_calls

_HEADER = "assistant\n"
_THOUGHT = "<think>\n"


class Rendered(NamedTuple):
    """A conversation as tokens. `trained[t]` says whether token t is one that the model learns to give."""

    tokens: np.ndarray  # int32 [n]
    trained: np.ndarray  # bool [n]


class Chat:
    """Renders with one tokenizer.

    Args:
      servers: a tool's name → its server's, for `tool_calls` in files; "hermes" needs none.
      call_format: how calls and results are written, one of CALL_FORMATS.
      template: None is the codec's own; "chatml" for a codec that has none.

    Attributes:
      call_format: the same; the agent reads turns by it.
      template: the one in use.

    Raises:
      ConfigError: another call format, or one that the template does not have.
    """

    def __init__(
        self,
        codec: TextCodec,
        servers: Mapping[str, str] | None = None,
        call_format: str = "mcp",
        template: Template | None = None,
    ):
        one_of("call_format", call_format, CALL_FORMATS)
        self._codec = codec
        self.template = template or (codec.template if isinstance(codec, ByteCodec) else CHATML)
        self._servers = dict(servers or {})
        self.call_format = call_format
        self._hermes = call_format == "hermes"
        check(
            self.template.calls or not self._hermes,
            "data.call_format is 'hermes', but the model's chat template writes calls in another way; "
            "set data.call_format=mcp, or name the template to use in tokenizer.template",
        )
        self._newline = codec.encode("\n")
        self._header = codec.encode(_HEADER)
        self._thought_header = codec.encode(_HEADER + _THOUGHT)
        opens = self.template.opens_thought
        self._to_speak = [codec.im_start_id, *(self._thought_header if opens else self._header)]

    def prompt(self, system: str | None, user: str, functions: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        """Ids of an episode's start, up to where the assistant's first turn begins.

        `functions` are JSON schemas, which "hermes" lists in the system message, and "mcp" has no place for.
        """
        system = self._system(system, functions)
        ids = [] if system is None else [*self._said("system", system), *self._newline]
        return [*ids, *self._said("user", user), *self._newline, *self._to_speak]

    def observation(
        self, texts: Sequence[str], end: int | None = None, request: str | None = None
    ) -> list[int]:
        """Ids between a sampled assistant turn, which ended itself, and the next one: the turn's results, `texts`, in
        one user message, and what we ask for after them: in the same message for "mcp", in its own for "hermes".

        `end` is the token that the turn ended by. After another one than `<|im_end|>` (a base model's `<|endoftext|>`,
        which stays, as it was sampled) the message is closed first.
        """
        ids = [] if end in (None, self._codec.im_end_id) else [self._codec.im_end_id]
        asked = [] if request is None else [request]
        said = [("tool", texts), ("user", asked)] if self._hermes else [("tool", [*texts, *asked])]
        for role, parts in said:
            ids += [*self._newline, *self._said(role, *parts)] if parts else []
        return [*ids, *self._newline, *self._to_speak]

    def render(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None
    ) -> Rendered:
        """A whole conversation (as `records.canonical_record` gives it) and what of it is trained.

        `tools` are the JSON schemas of a record's functions, which "hermes" lists in the system message.

        Trained is what a policy would sample: every assistant message, its thought and calls included, and the
        `<|im_end|>` that ends it. Not the newline after that, no header (nor the `<think>` of a prompt that opens
        the thought), nothing that system, user or tool said, and no message with weight 0. Tool messages that
        follow one another become one user message: joined by newlines, or for "hermes" each in its
        `<tool_response>`.

        Raises:
          DataError: `field: what; way out`, for a call of a tool that has no server, or whose arguments are
            no JSON object; for `tools` where the format has no place for them.
        """
        if tools and not self._hermes:
            raise DataError(
                "tools: these schemas would be lost; set data.call_format=hermes, or write the tools into the "
                "system message and drop the field"
            )
        ids: list[int] = []
        trained: list[bool] = []

        def add(new: Sequence[int], train: bool = False) -> None:
            ids.extend(new)
            trained.extend(itertools.repeat(train, len(new)))

        given = int(messages[0]["role"] == "system")
        system = self._system(messages[0]["content"] if given else None, tools or ())
        if system is not None:
            add(self._said("system", system))
        answers = len(messages) - 1 if has_question(messages, mcp=not self._hermes) else -1
        groups = itertools.groupby(
            itertools.islice(enumerate(messages), given, None),
            lambda item: -1 if item[1]["role"] == "tool" else item[0],
        )
        for _, group in groups:
            items = list(group)
            index, message = items[0]
            add(self._newline if ids else [])
            if message["role"] == "assistant":
                text = self._assistant_text(message, f"messages[{index}]", index == answers)
                spoken, given_tokens = self._spoken(text)
                add([self._codec.im_start_id, *spoken[:given_tokens]])
                add([*spoken[given_tokens:], self._codec.im_end_id], bool(message.get("weight", 1)))
            else:
                add(self._said(message["role"], *(m["content"] for _, m in items)))
        return Rendered(np.asarray(ids, np.int32), np.asarray(trained, bool))

    def _system(self, system: str | None, functions: Sequence[Mapping[str, Any]]) -> str | None:
        assert self._hermes or not functions
        return tools_section(self.template.system if system is None else system, functions)

    def _said(self, role: str, *texts: str) -> list[int]:
        """One whole message of untrusted text; "tool" is the role of a turn's results."""
        codec = self._codec
        if self._hermes:
            return [codec.im_start_id, *message_ids(codec, role, texts), codec.im_end_id]
        text = f"{'user' if role == 'tool' else role}\n" + "\n".join(texts)
        return [codec.im_start_id, *codec.encode_untrusted(text), codec.im_end_id]

    def _spoken(self, text: str) -> tuple[list[int], int]:
        """Ids of an assistant's header and `text`, and how many of them a policy does not sample."""
        ids = self._codec.encode(_HEADER + text)
        opened = self.template.opens_thought and text.startswith(_THOUGHT)
        before = self._thought_header if opened else self._header
        if ids[: len(before)] == before:
            return ids, len(before)
        characters = len(_HEADER + _THOUGHT if opened else _HEADER)  # the last of them is in a longer token
        return ids, next(n for n in range(len(ids) + 1) if len(self._codec.decode(ids[:n])) >= characters)

    def _assistant_text(self, message: Message, field: str, last: bool) -> str:
        text, apart = assistant_text(self.template, message, last)
        if self._hermes:
            return text + calls_text(message, field, apart)
        calls = []
        for where, name, arguments in tool_calls(message, field):
            if name not in self._servers:
                known = ", ".join(sorted(self._servers)) or "none"
                raise DataError(
                    f"{where}.function.name: no server is known for tool {name!r} (known: {known}); "
                    "name a tool of this run, set data.call_format=hermes (no servers), or write the call into content"
                )
            calls.append(ToolCall(self._servers[name], name, arguments))
        return text + render_calls(calls, text)
