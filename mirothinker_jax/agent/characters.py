"""A text codec without a vocabulary, for policies that write text and not tokens: the scripted expert, chat endpoints.

Its tokens are Unicode code points, so whatever is in them can be read back as messages. Not safe: a count of its
tokens is one of characters.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mirothinker_jax.tools.hermes import RESULT_TAGS

_CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *RESULT_TAGS)
_FIRST_CONTROL = 0x110000  # beyond Unicode
_CUT_NOTICE = "\n[cut]"  # as data/tokenizer.py has it


class Characters:
    """A text codec whose tokens are code points; control tokens come after the last of them."""

    vocab_size = _FIRST_CONTROL + len(_CONTROL)
    pad_id, im_start_id, im_end_id, result_id, shown_id = range(_FIRST_CONTROL, vocab_size)

    def token_id(self, name: str) -> int | None:
        return _FIRST_CONTROL + _CONTROL.index(name) if name in _CONTROL else None

    def encode(self, text: str) -> list[int]:
        return [ord(c) for c in text]

    encode_untrusted = encode

    def decode(self, ids: Sequence[int]) -> str:
        try:
            return "".join(map(chr, ids))
        except ValueError:  # there are control tokens among them
            return "".join(chr(i) if i < _FIRST_CONTROL else _CONTROL[i - _FIRST_CONTROL] for i in ids)

    def truncate(self, text: str, max_tokens: int) -> tuple[str, bool]:
        if len(text) <= max_tokens:
            return text, False
        notice = _CUT_NOTICE if len(_CUT_NOTICE) <= max_tokens else ""
        return text[: max_tokens - len(notice)] + notice, True


def read_messages(ids: Sequence[int]) -> list[dict[str, str]]:
    """The whole messages in tokens of `Characters`. A result in a frame of its own ("hermes") is a tool's message."""
    codec = Characters()
    tokens = np.asarray(ids, "<u4")
    # Control tokens are few, and all between two of them is text.
    controls = np.flatnonzero(tokens >= _FIRST_CONTROL)
    starts, ends = (controls[tokens[controls] == i] for i in (codec.im_start_id, codec.im_end_id))
    found: list[dict[str, str]] = []
    before = -1
    for start, end in zip(starts, ends, strict=False):  # the last message may have no end
        assert before < start < end
        before = end
        inside = controls[np.searchsorted(controls, start) + 1 : np.searchsorted(controls, end)]
        frames = [i for i in inside if tokens[i] in (codec.result_id, codec.shown_id)]
        for first, last in zip(frames[::2], frames[1::2], strict=True):
            text = _text(tokens[first + 1 : last])
            found.append({"role": "tool", "content": text.removeprefix("\n").removesuffix("\n")})
        if not frames:
            role, _, content = _text(tokens[start + 1 : end]).partition("\n")
            found.append({"role": role, "content": content})
    return found


def _text(tokens: np.ndarray) -> str:
    """The text of uint32 [n], quickly: contexts are read back at every turn."""
    if (tokens >= _FIRST_CONTROL).any():
        return Characters().decode(tokens.tolist())
    return tokens.tobytes().decode("utf-32-le", "surrogatepass")
