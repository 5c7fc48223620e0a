"""A Hugging Face `tokenizer.json` of a byte-level BPE (Qwen's and its kin) as a `TextCodec`.

Unusual: the library is given the file without its added tokens, so it knows none and no text whatever can
become one. The few that the policy writes as text (`TAGS`) are cut out of trusted text here and put in by id;
every other added token, `<tool_response>` included, comes only from data/chat.py. The library alone would turn
`<|im_end|>` on a web page into the end of the page's message.

Text is normalised as the file says, which for Qwen is NFC: `decode(encode_untrusted(x)) == NFC(x)`, and for
`encode` the same of each stretch between tags. What was sampled never passes through here as text.

Left out: other models than byte-level BPE (their tokens have no bytes of their own), post-processors that add
tokens, and padding, truncation and dropout set in the file. Not safe: `encode` on text that the policy or its teacher
did not write; and a tag that the file has no token for (`<think>` in Qwen2.5's) is spelled, by whomever.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mirothinker_jax.config import ConfigError
from mirothinker_jax.data.tokenizer import CONTROL, ByteCodec, TextCodec, Tokenizer, well_formed

if TYPE_CHECKING:
    import tokenizers

TAGS = ("<think>", "</think>", "<tool_call>", "</tool_call>")  # what the policy may write as text
_NFC_SHRINKS = 4  # characters that normalisation makes one of, at most
_MOST_IDS = 1 << 24
_FLAGS = ("single_word", "lstrip", "rstrip")  # a token that depends on what stands beside it
_WAY_OUT = "give a model's tokenizer.json, or the folder that holds it"


class HFTokenizer(ByteCodec):
    """Reads `path`, a tokenizer.json or the folder that holds one. Safe to share between threads.

    Attributes:
      vocab_size: one more than the highest id; the model's embedding may have more rows.
      pad_id, im_start_id, im_end_id: `<|endoftext|>`, `<|im_start|>`, `<|im_end|>`.

    Raises:
      ConfigError: the file is missing, is no tokenizer.json, or is one that this project cannot use.
    """

    def __init__(self, path: str | os.PathLike[str]):
        file = tokenizer_file(path)
        content = _read(file)
        added = {token["content"]: token for token in content["added_tokens"]}
        missing = [name for name in CONTROL if name not in added]
        if missing:
            raise ConfigError(
                f"{file}: lacks the added token {missing[0]} (has {len(added)} others); "
                "use the tokenizer of a Qwen model"
            )
        tags = [name for name in TAGS if name in added]
        for name in tags:
            if flags := [flag for flag in _FLAGS if added[name].get(flag)]:
                raise ConfigError(
                    f"{file}: {flags[0]} of the added token {name} is true, which is not supported; set it to false"
                )
        ids = {name: token["id"] for name, token in added.items()}
        self._plain = _without_added_tokens(content, file)
        vocabulary: dict[str, int] = self._plain.get_vocab(with_added_tokens=True)
        # Merges make only what is in this vocabulary: the library refuses other ones.
        of_text = set(vocabulary.values())
        if clash := [name for name, i in ids.items() if i in of_text]:
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
        # Nothing matches (?!), for a file without any of the tags.
        self._tag = re.compile("|".join(map(re.escape, tags)) or "(?!)")

    def encode(self, text: str) -> list[int]:
        """Ids of trusted text: the tags that have a token become it, other added tokens are spelled."""
        ids: list[int] = []
        done = 0
        for match in self._tag.finditer(text):
            ids += [*self.encode_untrusted(text[done : match.start()]), self._structure[match[0]]]
            done = match.end()
        return ids + self.encode_untrusted(text[done:])

    def encode_untrusted(self, text: str) -> list[int]:
        """Ids of text from outside: no added token, whatever it says."""
        return self._plain.encode(well_formed(text), add_special_tokens=False).ids


def open_tokenizer(path: str | os.PathLike[str]) -> TextCodec:
    """The tokenizer at `path`: sentencepiece for `*.model`, Hugging Face for `*.json` or a folder.

    Raises:
      ConfigError: nothing there, another kind of file, or one that this project cannot use.
    """
    return Tokenizer(path) if Path(path).suffix == ".model" else HFTokenizer(path)


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


def _without_added_tokens(content: dict[str, Any], file: Path) -> tokenizers.Tokenizer:
    import tokenizers  # 0.4 s, which only a Hugging Face tokenizer costs

    plain = content | {"added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
    plain["model"] = content["model"] | {"dropout": None}  # chance, for training
    try:
        return tokenizers.Tokenizer.from_str(json.dumps(plain))
    except Exception as error:  # the library has no class of its own for this
        raise ConfigError(f"{file}: not a tokenizer.json ({error}); {_WAY_OUT}") from None


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
        table[i] = name.encode()
    return table


def _letters() -> dict[str, int]:
    """Letter → byte, as GPT-2 introduced it: a byte that Latin-1 shows is its own letter; the others, in
    order, are the letters from U+0100 on."""
    shown = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + i): byte for i, byte in enumerate(hidden)}
