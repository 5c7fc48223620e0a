"""Qwen's own tool format ("Hermes"), token for token as the official chat template writes it.

    …<tool_call>\\n{"name": "run", "arguments": {…}}\\n</tool_call><|im_end|>
    <|im_start|>user\\n<tool_response>\\n…\\n</tool_response><|im_end|>

Unusual: the template's text is one string in which any tag becomes its token. Here a message is alternating
text and tag: tags are put in by id, and text, which is untrusted, cannot make one. The text between two tags
is encoded in one go, because byte-pair merges run across what the template puts together ("\\n" before a
result that begins with "\\n" is one token). A tag inside a call's arguments is written as JSON's \\u003c.

Left out: servers (the format has tool names only), and an assistant message's content (data/templates.py). Not
safe: where the vocabulary has no token for a tag (`<tool_response>` in Qwen2.5's), the tag is spelled, so a
page can spell it as well.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from mirothinker_jax.data.messages import Message, tool_calls
from mirothinker_jax.data.tokenizer import TextCodec
from mirothinker_jax.tools import hermes
from mirothinker_jax.tools.hermes import RESULT_TAGS, SECTION_END


def calls_text(message: Message, field: str, apart: bool) -> str:
    """An assistant message's `tool_calls` as they follow its content; after a newline where they are set `apart`.
    Arguments that are a string stay so.

    Raises:
      DataError: an entry that is not an OpenAI function call, or whose arguments are no JSON object.
    """
    written = []
    calls = list(tool_calls(message, field))
    for entry, (_, name, parsed) in zip(message.get("tool_calls") or [], calls, strict=True):
        arguments = entry["function"].get("arguments")
        if not (isinstance(arguments, str) and arguments.strip()):
            arguments = json.dumps(parsed, ensure_ascii=False)
        written.append((name, arguments))
    return hermes.calls_text(written, apart)


def message_ids(codec: TextCodec, role: str, texts: Sequence[str]) -> list[int]:
    """Ids of an untrusted message between `<|im_start|>` and `<|im_end|>`.

    `texts` are the results of a turn for role "tool", and one text for "system" and "user". A system text
    that ends as `tools_section` ends it gets the ids of the tags it ends with.
    """
    if role == "tool":
        parts = ["user"]
        for text in texts:
            parts[-1] += "\n"
            parts += [RESULT_TAGS[0], f"\n{text}\n", RESULT_TAGS[1], ""]
        return _splice(codec, parts)
    (text,) = texts
    end = "".join(SECTION_END)
    if role == "system" and text.endswith(end):
        return _splice(codec, [f"system\n{text.removesuffix(end)}{SECTION_END[0]}", *SECTION_END[1:]])
    return codec.encode_untrusted(f"{role}\n{text}")


def _splice(codec: TextCodec, parts: Sequence[str]) -> list[int]:
    """Ids of alternating text and tag: text, tag, text, …, text."""
    ids: list[int] = []
    text = ""
    for place, part in enumerate(parts):
        tag = codec.token_id(part) if place % 2 else None
        if tag is None:
            text += part
        else:
            ids += [*codec.encode_untrusted(text), tag]
            text = ""
    return ids + codec.encode_untrusted(text)
