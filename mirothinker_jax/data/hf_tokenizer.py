"""A Hugging Face `tokenizer.json` of a byte-level BPE (Qwen's and its kin) as a `TextCodec`.

Unusual: text from outside is encoded by the file without its added tokens, so no text whatever can become one. The
library alone would turn `<|im_end|>` on a web page into the end of the page's message. Trusted text, which is what
an assistant says, is encoded with the added tokens, the user's own among them, as transformers does it; but for
those that a conversation is built of (`_STRUCTURE`), which come only from data/chat.py.

Text is normalised as the file says, which for Qwen is NFC: `decode(encode_untrusted(x)) == NFC(x)`, and for
`encode` the same of each stretch between added tokens (one with `lstrip` or `rstrip` takes the spaces beside it).
What was sampled never passes through here as text.

A tokenizer.json that transformers made of a GGUF file lists its added tokens in the vocabulary, too. They are taken
out of it, unless merges make them.

Left out: other models than byte-level BPE (their tokens have no bytes of their own), post-processors that add
tokens, and padding, truncation and dropout set in the file. Not safe: `encode` on text that the policy or its teacher
did not write; and a tag that the file has no token for (`<think>` in Qwen2.5's) is spelled, by whomever.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import tokenizers

from mirothinker_jax.config import ConfigError
from mirothinker_jax.data.template_files import find_template
from mirothinker_jax.data.templates import CHATML, TEMPLATES
from mirothinker_jax.data.tokenizer import CONTROL, ByteCodec, Tokenizer, well_formed

_STRUCTURE = (*CONTROL, "<tool_response>", "</tool_response>")  # never made of text
_TAGS = (*_STRUCTURE, "<think>", "</think>", "<tool_call>", "</tool_call>")  # never made of text from outside
_NFC_SHRINKS = 4  # characters that normalisation makes one of, at most
_MOST_IDS = 1 << 24
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")  # when an added token is found in text
_WAY_OUT = "give a model's tokenizer.json, or the folder that holds it"


class HFTokenizer(ByteCodec):
    """Reads `path`, a tokenizer.json or the folder that holds one. Safe to share between threads.

    `template` is one of CHAT_TEMPLATES; "auto" is the template that lies beside the file.

    Attributes:
      vocab_size: one more than the highest id; the model's embedding may have more rows.
      pad_id, im_start_id, im_end_id: `<|endoftext|>`, `<|im_start|>`, `<|im_end|>`.

    Raises:
      ConfigError: the file is missing, is no tokenizer.json, or is one that this project cannot use; so for the
        template beside it.
    """

    def __init__(self, path: str | os.PathLike[str], template: str = "auto"):
        file = tokenizer_file(path)
        content = _read(file)
        added = {token["content"]: token for token in content["added_tokens"]}
        missing = [name for name in CONTROL if name not in added]
        if missing:
            raise ConfigError(
                f"{file}: lacks the added token {missing[0]} (has {len(added)} others); "
                "use the tokenizer of a Qwen model"
            )
        ids = {name: token["id"] for name, token in added.items()}
        self._plain, vocabulary = _without_added_tokens(content, file)
        # Merges make only what is in this vocabulary: the library refuses other ones. A word that was added once more
        # stays a word.
        of_text = set(vocabulary.values())
        word = lambda name, i: vocabulary.get(name) == i and name not in _TAGS  # noqa: E731
        if clash := [name for name, i in ids.items() if i in of_text and not word(name, i)]:
            raise ConfigError(
                f"{file}: the added token {clash[0]} has id {ids[clash[0]]}, which text can make too; "
                "use a tokenizer whose added tokens lie outside its vocabulary"
            )
        table = _bytes_of_tokens(vocabulary, ids, file)
        super().__init__(table, _NFC_SHRINKS * max(map(len, table)), ids)
        # NFC leaves these as they are; other normalisations, and spaces added or taken, do not.
        if any(self.decode(self.encode_untrusted(probe)) != probe for probe in ("A\u00e9", "  \ufb01\n ")):
            raise ConfigError(
                f"{file}: this tokenizer changes text beyond NFC; use the tokenizer of a Qwen model"
            )
        self._trusted, self._renumber = _with_added_tokens(self._plain, vocabulary, added)
        self.template = find_template(file.parent, self) if template == "auto" else TEMPLATES[template]

    def encode(self, text: str) -> list[int]:
        """Ids of trusted text: added tokens become themselves, but those of a conversation's structure."""
        renumber = self._renumber
        ids = self._trusted.encode(well_formed(text), add_special_tokens=False).ids
        return [renumber.get(i, i) for i in ids]

    def encode_untrusted(self, text: str) -> list[int]:
        """Ids of text from outside: no added token, whatever it says."""
        return self._plain.encode(well_formed(text), add_special_tokens=False).ids


def open_tokenizer(path: str | os.PathLike[str], template: str = "auto") -> ByteCodec:
    """The tokenizer at `path`: sentencepiece for `*.model`, Hugging Face for `*.json` or a folder.

    Its `template` is the one named, of CHAT_TEMPLATES. "auto" is the one that lies beside a Hugging Face file.

    Raises:
      ConfigError: nothing there, another kind of file, or one that this project cannot use; a template of the
        model's own that is none of those known.
    """
    if Path(path).suffix != ".model":
        return HFTokenizer(path, template)
    tokenizer = Tokenizer(path)
    tokenizer.template = CHATML if template == "auto" else TEMPLATES[template]
    return tokenizer


def tokenizer_file(path: str | os.PathLike[str]) -> Path:
    """The file that `open_tokenizer(path)` reads.

    Raises:
      ConfigError: there is none.
    """
    file = Path(path)
    if file.is_dir():
        file /= "tokenizer.json"
    if not file.is_file():
        raise ConfigError(f"{file}: no such tokenizer file; {_WAY_OUT}")
    if file.suffix not in (".json", ".model"):
        raise ConfigError(f"{file}: neither *.model (sentencepiece) nor *.json (Hugging Face); {_WAY_OUT}")
    return file


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file}: not JSON ({error}); {_WAY_OUT}") from None
    tokens = content.get("added_tokens") if isinstance(content, dict) else None
    if not isinstance(tokens, list) or not isinstance(content.get("model"), dict):
        raise ConfigError(f"{file}: not a tokenizer.json (lacks model or added_tokens); {_WAY_OUT}")
    for token in tokens:
        try:
            good = (
                isinstance(token["content"], str)
                and type(token["id"]) is int
                and 0 <= token["id"] < _MOST_IDS
            )
        except (TypeError, KeyError):
            good = False
        if not good:
            raise ConfigError(f"{file}: not an added token: {token!r:.80}; {_WAY_OUT}")
    return content


def _without_added_tokens(content: dict[str, Any], file: Path) -> tuple[tokenizers.Tokenizer, dict[str, int]]:
    """The tokenizer of text from outside, and its vocabulary."""
    model = content["model"] | {"dropout": None}  # chance, for training
    vocabulary, fillers = model.get("vocab"), {}
    try:
        if model.get("continuing_subword_prefix"):  # with which the library may panic
            raise ValueError("continuing_subword_prefix is set, which byte-level BPE has not")
        if isinstance(vocabulary, dict) and isinstance(model.get("merges"), list):
            of_text = {*_letters(), *map(_joined, model["merges"])}
            listed = {token["content"] for token in content["added_tokens"]} - of_text
            kept = {name: i for name, i in vocabulary.items() if name not in listed}
            # The library numbers further tokens from the vocabulary's size on. Without gaps these numbers are free. No
            # text makes what fills a gap: byte-level BPE has another letter for the space.
            taken = set(kept.values())
            if max(taken, default=0) >= _MOST_IDS:
                raise ValueError(f"the vocabulary has an id of {max(taken)}")
            fillers = {f" {i}": i for i in range(max(taken, default=0)) if i not in taken}
            model["vocab"] = kept | fillers
        plain = content | {"added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(plain | {"model": model}))
    except Exception as error:  # the library has no class of its own for this
        raise ConfigError(f"{file}: not a tokenizer.json ({error}); {_WAY_OUT}") from None
    return tokenizer, {name: i for name, i in tokenizer.get_vocab().items() if name not in fillers}


def _joined(merge: str | list[str]) -> str:
    return "".join(merge.split(" ") if isinstance(merge, str) else merge)


def _with_added_tokens(
    plain: tokenizers.Tokenizer, vocabulary: dict[str, int], added: dict[str, dict[str, Any]]
) -> tuple[tokenizers.Tokenizer, dict[int, int]]:
    """A tokenizer with the model of `plain` and the added tokens of trusted text, and {its id: the file's}."""
    trusted = tokenizers.Tokenizer(plain.model)
    trusted.normalizer, trusted.pre_tokenizer = plain.normalizer, plain.pre_tokenizer
    for name, token in added.items():
        if name and name not in _STRUCTURE:
            flags = {flag: bool(token[flag]) for flag in _FLAGS if flag in token}
            trusted.add_tokens([tokenizers.AddedToken(name, **flags)])
    found = trusted.get_added_tokens_decoder().items()
    # A word that was added once more keeps its number.
    return trusted, {i: added[t.content]["id"] for i, t in found if t.content not in vocabulary}


def _bytes_of_tokens(vocabulary: dict[str, int], added: dict[str, int], file: Path) -> list[bytes]:
    """The bytes of every id. Byte-level BPE writes each byte as one letter, so that every piece can be read."""
    letters = _letters()
    table = [b"\xff"] * (max((*vocabulary.values(), *added.values())) + 1)
    try:
        for name, i in vocabulary.items():
            table[i] = bytes(map(letters.__getitem__, name))
    except KeyError as error:
        raise ConfigError(
            f"{file}: token {name!r} has {error}, which stands for no byte; use a byte-level BPE tokenizer"
        ) from None
    if lacking := letters.keys() - vocabulary.keys():
        raise ConfigError(
            f"{file}: {len(lacking)} of 256 bytes have no token; use a byte-level BPE tokenizer"
        )
    for name, i in added.items():
        if vocabulary.get(name) != i:
            table[i] = name.encode()
    return table


def _letters() -> dict[str, int]:
    """Letter → byte, as GPT-2 introduced it: a byte that Latin-1 shows is its own letter; the others, in
    order, are the letters from U+0100 on."""
    shown = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + i): byte for i, byte in enumerate(hidden)}
