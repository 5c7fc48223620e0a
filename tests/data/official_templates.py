"""The official chat templates as transformers renders them, and the ids of what they write.

Qwen2.5's and Qwen3's come from packages. Those of Qwen3-Instruct-2507 and Qwen3-Thinking-2507 are in none. They write
what Qwen3's writes with the edits below.
"""

import functools
import json
import re
from pathlib import Path

import jinja2.ext
import jinja2.sandbox
import tokenizers

SPELLED = "\ue000"  # within the name of an added token: it is text here
HIDDEN = "\ue001"  # within a tag: the template must not see it


class Written(str):
    """JSON that the template's `tojson` leaves as it is."""


def edit(text, *pairs):
    """`text` with each (pattern, replacement) made; each pattern must be there."""
    for pattern, new in pairs:
        text, count = re.subn(pattern, lambda _, new=new: new, text, flags=re.DOTALL)
        assert count, f"no {pattern}"
    return text


# Content that is null, or a list, is written as an empty string.
_STRINGS = (
    r"message\.role == \"user\" and not\(message\.content",
    'message.role == "user" and message.content is string and not(message.content',
)


def qwen3_thinking_2507(qwen3):
    """The prompt opens the thought; null content is allowed. What is written of a conversation is Qwen3's."""
    return edit(
        qwen3,
        _STRINGS,
        (r"set content = message\.content %}", "set content = message.content or '' %}"),
        (r"in message\.content", "in content"),
        (
            r"{{- '<\|im_start\|>assistant\\n' }}.*",
            "{{- '<|im_start|>assistant\\n<think>\\n' }}\n{%- endif %}",
        ),
    )


def qwen3_instruct_2507(qwen3):
    """No thoughts: an assistant's content is written as it is; no switch for thinking in the prompt."""
    return edit(
        qwen3,
        (r"{%- set ns = .*?{%- for message in messages %}", "{%- for message in messages %}"),
        (
            r"{%- set content = message\.content %}.*?{%- if message\.tool_calls %}",
            "{%- set content = message.content or '' %}{{- '<|im_start|>assistant\\n' + content }}"
            "{%- if message.tool_calls %}",
        ),
        (r"{{- '<\|im_start\|>assistant\\n' }}.*", "{{- '<|im_start|>assistant\\n' }}\n{%- endif %}"),
    )


def keeping_thoughts(template):
    """Qwen3's or Thinking-2507's, but thoughts of all turns stay, empty ones as well, and what is marked as_is."""
    return edit(
        template,
        (r"set reasoning_content = '' %}", "set reasoning_content = none %}"),
        (
            r"if loop\.index0 > ns\.last_query_index %}",
            "if (loop.index0 > ns.last_query_index or reasoning_content is not none) and not message.as_is %}",
        ),
        (r"\(not loop\.last and reasoning_content\)", "reasoning_content is not none"),
        (r"reasoning_content\.strip\('\\n'\)", "(reasoning_content or '').strip('\\n')"),
    )


@functools.cache
class Official:
    """One tokenizer with its added tokens, and the template beside it."""

    def __init__(self, folder: Path):
        self.template = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))[
            "chat_template"
        ]
        self.library = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        self.added = {token["content"]: token["id"] for token in content["added_tokens"]}
        self._plain = tokenizers.Tokenizer(self.library.model)
        self._plain.normalizer = self.library.normalizer
        self._plain.pre_tokenizer = self.library.pre_tokenizer
        names = sorted(self.added, key=len, reverse=True)
        self.name = re.compile(f"({'|'.join(map(re.escape, names))})")

    def ids(self, text: str) -> list[int]:
        """As transformers has them: every name of an added token becomes it."""
        return self.library.encode(text, add_special_tokens=False).ids

    def ids_of_marked(self, text: str) -> list[int]:
        """The same, but for names that are SPELLED."""
        ids = []
        for part in self.name.split(text.replace(HIDDEN, "")):
            one = self.added.get(part)
            ids += [one] if one is not None else self._plain.encode(part.replace(SPELLED, "")).ids
        return ids


def renderer(template: str):
    """(messages, tools, generate) → the template's text."""
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
    )
    env.filters["tojson"] = lambda value: (
        value if isinstance(value, Written) else json.dumps(value, ensure_ascii=False)
    )
    program = env.from_string(template)
    return lambda messages, tools=None, generate=False: program.render(
        messages=messages, tools=tools, add_generation_prompt=generate
    )
