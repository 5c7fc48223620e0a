"""What the chat templates of the Qwen families do differently, as data.

    <|im_start|>assistant\\n<think>\\nthought\\n</think>\\n\\nsaid<tool_call>…</tool_call><|im_end|>

Unusual: nothing is taken away. The official templates drop the thoughts of turns before the last question, a
`reasoning_content` (Qwen2.5, Instruct-2507) and text beside a thought. Here thoughts of all turns stay, because what
was sampled is never rendered again, and content that a template would cut is left as it is.

Left out: Jinja. data/template_files.py tells which of these a model's own template is. A template that none of them
equals has to be chosen by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mirothinker_jax.data.messages import Message


@dataclass(frozen=True)
class Template:
    """A family of chat templates.

    Attributes:
      name: its value in tokenizer.template.
      system: the system message of a conversation that has none.
      tidies: a thought at the start of a content is written on lines of its own, and an answer that ends a
        conversation gets an empty thought if it has none.
      opens_thought: the prompt for a turn ends with `<think>\\n`, so that the model does not sample it.
      thought_is_text: a content that is a thought alone has a newline before its first `<tool_call>`.
      calls: the model's own template writes calls as data/hermes.py does.
    """

    name: str
    system: str | None = None
    tidies: bool = False
    opens_thought: bool = False
    thought_is_text: bool = False
    calls: bool = True


_QWEN = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
CHATML = Template("chatml")
QWEN2_5 = Template("qwen2.5", system=_QWEN, thought_is_text=True)
QWEN3 = Template("qwen3", tidies=True)
QWEN3_INSTRUCT = Template("qwen3-instruct-2507", thought_is_text=True)
QWEN3_THINKING = Template("qwen3-thinking-2507", tidies=True, opens_thought=True)
TEMPLATES = {t.name: t for t in (CHATML, QWEN2_5, QWEN3, QWEN3_INSTRUCT, QWEN3_THINKING)}


class AssistantText(NamedTuple):
    """An assistant message without its calls. `apart`: "hermes" writes a newline before the first call."""

    text: str
    apart: bool


def assistant_text(template: Template, message: Message, last: bool) -> AssistantText:
    """What `template` makes of a message's `content` and `reasoning_content`.

    `last` says that the message ends its conversation and answers a question in it. An empty `reasoning_content`
    is none.

    >>> assistant_text(QWEN3, {"content": "<think>t</think>a"}, last=False).text
    '<think>\\nt\\n</think>\\n\\na'
    >>> assistant_text(QWEN3, {"content": "a"}, last=True).text
    '<think>\\n\\n</think>\\n\\na'
    """
    content: str = message.get("content") or ""
    thought: str | None = message.get("reasoning_content") or None
    if thought is None and template.tidies:
        thought, content = _split(content)
        if thought is None and last and "</think>" not in content:
            thought = ""
    if thought is None:
        said = content if template.thought_is_text else _split(content)[1]
        return AssistantText(content, bool(said))
    thought, said = thought.strip("\n"), content.lstrip("\n")
    return AssistantText(f"<think>\n{thought}\n</think>\n\n{said}", template.thought_is_text or bool(content))


def has_question(messages: Sequence[Message], mcp: bool) -> bool:
    """Whether somebody asks something, as Qwen3's template has it: a user message that is no result of a tool.

    In "mcp" a result is a user message, too.
    """
    return any(
        mcp
        if m["role"] == "tool"
        else m["role"] == "user"
        and not (m["content"].startswith("<tool_response>") and m["content"].endswith("</tool_response>"))
        for m in messages
    )


def _split(content: str) -> tuple[str | None, str]:
    """(thought, what is said after it); (None, content) where it does not begin with exactly one thought.

    The opening tag may be missing: a turn sampled after a prompt that ends with it has none.
    """
    before, tag, said = content.partition("</think>")
    thought = before.lstrip("\n").removeprefix("<think>")
    if not tag or "<think>" in thought or "</think>" in said:
        return None, content
    return thought.strip("\n"), said.lstrip("\n")
