"""A sentencepiece tokenizer that loses nothing and cannot be talked into a control token.

Unusual: text is encoded either as *trusted* (what the policy writes: call tags and `<think>` become their
own tokens) or as *untrusted* (pages, tool results, users: neither a control token nor a tag token can come
out, whatever the text says). Control tokens never come out of text at all: data/chat.py puts them in by id.
Decoding works on the bytes of the pieces, not through sentencepiece, so that every text comes back
unchanged, including U+2581, which sentencepiece itself takes for a space.

Left out: unpaired surrogates (no UTF-8 exists for them; they are encoded as U+FFFD) and normalisation of any
kind. Not safe: `encode` on text that the policy or its teacher did not write.
"""

from __future__ import annotations

import collections
import io
import itertools
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import sentencepiece

from mirothinker_jax.config import ConfigError, TokenizerConfig
from mirothinker_jax.data.atomic import replacing
from mirothinker_jax.data.templates import CHATML, Template
from mirothinker_jax.tools import hermes
from mirothinker_jax.tools.spec import CALL_TAGS

PAD, IM_START, IM_END = CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_THOUGHT = ("<think>", "</think>")
# Structure that only the policy may write, by call format.
TAGS = {"mcp": (*_THOUGHT, *CALL_TAGS), "hermes": (*_THOUGHT, *hermes.CALL_TAGS)}
_FRAMES = {"mcp": (), "hermes": hermes.RESULT_TAGS}  # and that nobody may: data/chat.py puts them in by id
CUT_NOTICE = "\n[cut]"  # six bytes: never more than six tokens

_SPACE = "\u2581"  # how sentencepiece writes a space
_NOT_LEARNED = "|".join(["\n", "\0", _SPACE, *map(re.escape, CONTROL)])
_LONGEST_LINE_BYTES = 1 << 20  # sentencepiece drops longer ones without a word
_FIXED_PIECES = 1 + len(CONTROL) + 256 + 1  # unknown, control, bytes, newline; and the format's own
_logger = logging.getLogger(__name__)


class TextCodec(Protocol):
    """What the rest of the project asks of a tokenizer, whatever library stands behind it."""

    @property
    def vocab_size(self) -> int:
        """Ids lie below it."""
        ...

    @property
    def pad_id(self) -> int:
        """Fills rows."""
        ...

    @property
    def im_start_id(self) -> int:
        """Begins a message."""
        ...

    @property
    def im_end_id(self) -> int:
        """Ends a message."""
        ...

    def token_id(self, name: str) -> int | None:
        """The id of a control token or tag; None where the vocabulary has none."""
        ...

    def encode(self, text: str) -> list[int]:
        """Ids of trusted text, in which tags become their tokens."""
        ...

    def encode_untrusted(self, text: str) -> list[int]:
        """Ids of text from outside: no control token, whatever it says."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids."""
        ...

    def truncate(self, text: str, max_tokens: int) -> tuple[str, bool]:
        """(text of at most so many tokens, whether it was cut)."""
        ...


class ByteCodec:
    """What follows from knowing the bytes of every token; the base of the codecs.

    Args:
      table: the bytes of id 0, 1, …; b"\\xff" (never UTF-8) for an id that stands for nothing.
      longest: characters of a text that one token may stand for, at most.
      structure: ids of control and tag tokens by name, those of CONTROL among them.

    Attributes:
      template: how conversations are written for the model that the tokenizer belongs to.
    """

    template: Template = CHATML

    def __init__(self, table: Sequence[bytes], longest: int, structure: Mapping[str, int]):
        self._bytes, self._longest, self._structure = table, longest, dict(structure)
        self.vocab_size: int = len(table)
        self.pad_id, self.im_start_id, self.im_end_id = (self._structure[name] for name in CONTROL)

    def encode(self, text: str) -> list[int]:
        """Ids of trusted text, in which tags are tokens."""
        raise NotImplementedError

    def encode_untrusted(self, text: str) -> list[int]:
        """Ids of text from outside; none of them is a control or tag token."""
        raise NotImplementedError

    def token_id(self, name: str) -> int | None:
        """The id of a control token or tag; None where it has no token of its own."""
        return self._structure.get(name)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`. Control tokens show as their names; what is not UTF-8, or is beyond the
        vocabulary (a model's embedding may be padded), shows as U+FFFD."""
        table, size = self._bytes, self.vocab_size
        return b"".join([table[i] if 0 <= i < size else b"\xff" for i in ids]).decode("utf-8", "replace")

    def truncate(self, text: str, max_tokens: int) -> tuple[str, bool]:
        """Untrusted `text` cut to `max_tokens`, a notice at the end included, and whether it was cut.

        Where not even the notice fits, the text is cut without one.
        """
        ids = self.encode_untrusted(text[: (max_tokens + 1) * self._longest])
        if len(ids) <= max_tokens:
            return text, False
        notice = CUT_NOTICE if len(self.encode_untrusted(CUT_NOTICE)) <= max_tokens else ""
        for keep in range(max_tokens - len(self.encode_untrusted(notice)), -1, -1):
            # A cut within a character leaves bytes that are no UTF-8: drop them.
            kept = b"".join([self._bytes[i] for i in ids[:keep]]).decode("utf-8", "ignore") + notice
            if len(self.encode_untrusted(kept)) <= max_tokens:  # a merge across the seam may cost a token
                return kept, True
        return "", True


class Tokenizer(ByteCodec):
    """Reads a model that `train_tokenizer` wrote. Safe to share between threads.

    Attributes:
      vocab_size: ids are 0 … vocab_size − 1; may be below what training asked for (a small corpus).
      pad_id, im_start_id, im_end_id: `<|endoftext|>`, `<|im_start|>`, `<|im_end|>`.

    Raises:
      ConfigError: the file is missing, or is a sentencepiece model that this project cannot use.
    """

    def __init__(self, path: str | os.PathLike[str]):
        if not Path(path).is_file():
            raise ConfigError(
                f"{path}: no such tokenizer file; leave tokenizer.path empty to have one trained"
            )
        try:
            self._pieces = sentencepiece.SentencePieceProcessor(model_file=os.fspath(path))
        except RuntimeError:
            raise ConfigError(
                f"{path}: not a sentencepiece model; give one that train_tokenizer wrote"
            ) from None
        names: list[str] = [self._pieces.id_to_piece(i) for i in range(self._pieces.vocab_size())]
        ids = {name: i for i, name in enumerate(names)}
        whole = [f for f in TAGS if ids.keys() >= {*TAGS[f], *_FRAMES[f]}]  # what it was trained for
        tags = [tag for f in whole or ["mcp"] for tag in (*TAGS[f], *_FRAMES[f])]
        structure = (*CONTROL, *dict.fromkeys(tags))
        missing = [name for name in structure if name not in ids]
        missing += [f"<0x{b:02X}>" for b in range(256) if f"<0x{b:02X}>" not in ids]
        if missing:
            raise ConfigError(
                f"{path}: lacks the token {missing[0]} (and {len(missing) - 1} others); "
                "leave tokenizer.path empty to have a fitting tokenizer trained"
            )
        table = [
            bytes([int(name[3:5], 16)]) if self._pieces.is_byte(i) else name.replace(_SPACE, " ").encode()
            for i, name in enumerate(names)
        ]
        super().__init__(table, max(map(len, names)), {name: ids[name] for name in structure})
        self._tag = re.compile("|".join(map(re.escape, tags)))
        self._space_bytes = [ids[f"<0x{b:02X}>"] for b in _SPACE.encode()]
        probe = " a  \ufb01\n "  # the ligature would change under the usual normalisation
        if self.decode(self.encode(probe)) != probe:
            raise ConfigError(f"{path}: this model changes text (normalisation, spaces); train one without")

    def encode(self, text: str) -> list[int]:
        """Ids of trusted text: call tags, `<think>` and `</think>` become their own tokens; a result's do not."""
        if _SPACE not in text:
            return self._encode_plain(text)
        ids: list[int] = []
        for i, part in enumerate(text.split(_SPACE)):
            ids += self._space_bytes if i else []
            ids += self._encode_plain(part)
        return ids

    def encode_untrusted(self, text: str) -> list[int]:
        """Ids of text from outside: tags are spelled out, so none of their tokens can come out.

        `decode` gives the same text back, as it does for `encode`.
        """
        if "<" not in text:
            return self.encode(text)
        ids: list[int] = []
        done = 0
        for match in self._tag.finditer(text):  # cut after the "<": no token spans a cut
            ids += self.encode(text[done : match.start() + 1])
            done = match.start() + 1
        return ids + self.encode(text[done:])

    def _encode_plain(self, text: str) -> list[int]:
        return self._pieces.encode(well_formed(text))


def well_formed(text: str) -> str:
    """`text` with U+FFFD for every unpaired surrogate, for which no UTF-8 exists."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def train_tokenizer(
    texts: Iterable[str],
    path: str | os.PathLike[str],
    settings: TokenizerConfig,
    call_format: str = "mcp",
) -> None:
    """Learns byte-pair merges from `texts` and writes a sentencepiece model to `path`, whole or not at all.

    The tags of `call_format` are one token each.

    The same texts and settings give the same bytes. A corpus too small for `settings.vocab_size` gives a
    smaller vocabulary (logged; `Tokenizer.vocab_size` tells). At most half of the free vocabulary goes to
    single characters, the most frequent ones; the others are spelled in bytes. `settings.symbols` are
    strings that are always one token; a " " among them makes every space a token of its own, so that a word
    has the same pieces wherever it stands.

    Raises:
      ConfigError: no text, a vocabulary too small for the fixed tokens, or a symbol that cannot be one.
    """
    tags, frames = TAGS[call_format], _FRAMES[call_format]
    symbols = [symbol for symbol in _symbols(settings.symbols) if symbol not in tags]
    free = settings.vocab_size - _FIXED_PIECES - len(tags) - len(frames) - len(symbols)
    if free < 2:
        raise ConfigError(
            f"tokenizer.vocab_size is {settings.vocab_size}, of which bytes, control tokens, tags and "
            f"symbols take {settings.vocab_size - free}; raise it, or give fewer tokenizer.symbols"
        )
    # A symbol is a token as it is: nothing is learned from it. sentencepiece sees to that, but not across lines.
    across = sorted((symbol for symbol in settings.symbols if "\n" in symbol), key=len, reverse=True)
    not_learned = re.compile("|".join([*map(re.escape, across), _NOT_LEARNED]))
    lines = (line for text in texts for line in _lines(text, not_learned))
    lines = _without_rare(list(lines), most=free // 2)
    if not lines:
        raise ConfigError("no text to train a tokenizer on; give a corpus, or a trained tokenizer.path")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=settings.vocab_size,
        hard_vocab_limit=False,
        character_coverage=1.0,
        # Without a piece for the space, spaces would be spelled as the bytes of U+2581.
        treat_whitespace_as_suffix=settings.space_suffix,
        required_chars="" if _SPACE in symbols else _SPACE,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        byte_fallback=True,
        split_digits=True,
        max_sentence_length=_LONGEST_LINE_BYTES,
        control_symbols=[*CONTROL, *frames],
        user_defined_symbols=[*tags, "\n", *symbols],
        unk_id=0,
        bos_id=-1,
        eos_id=-1,
        pad_id=-1,
        num_threads=1,  # more threads would not change the merges today, but nobody promises it
        minloglevel=2,
    )
    with replacing(path) as scratch:
        scratch.write_bytes(model.getvalue())
    size = Tokenizer(path).vocab_size
    if size < settings.vocab_size:
        _logger.info("tokenizer: %d tokens; the corpus is too small for %d", size, settings.vocab_size)


def _symbols(symbols: Sequence[str]) -> list[str]:
    """The user's symbols as sentencepiece wants them: spaces in its own spelling, none twice."""
    for symbol in symbols:
        if (
            not symbol
            or _SPACE in symbol
            or "\0" in symbol
            or any(name in symbol for name in (*CONTROL, *hermes.RESULT_TAGS, "<0x"))
        ):
            raise ConfigError(
                f"tokenizer.symbols has {symbol!r}; a symbol must not be empty, nor hold a control token, "
                "'<0x', U+2581 or NUL"
            )
    unique = dict.fromkeys(symbol.replace(" ", _SPACE) for symbol in symbols)
    return [symbol for symbol in unique if symbol != "\n"]


def _lines(text: str, not_learned: re.Pattern[str]) -> Iterator[str]:
    """What sentencepiece may learn from: no newline (a token already), no control token, no overlong line."""
    for line in not_learned.split(text):
        step = _LONGEST_LINE_BYTES // 4  # a character is at most four bytes
        for start in range(0, len(line), step):
            yield line[start : start + step].encode("utf-8", "replace").decode()


def _without_rare(lines: list[str], most: int) -> list[str]:
    """`lines`, cut where a character stands that is not among the `most` frequent ones. (sentencepiece has
    `character_coverage` for this, but refuses to leave out more than 2% of a text.)"""
    counts = collections.Counter(itertools.chain.from_iterable(lines))
    rare = {ord(character): "\n" for character, _ in counts.most_common()[most:]}
    if not rare:
        return lines
    return [part for line in lines for part in line.translate(rare).split("\n") if part]
