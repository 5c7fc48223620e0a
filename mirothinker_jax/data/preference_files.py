"""Preference pairs from files: JSON Lines, plain or gzip, and Parquet tables.

    {"prompt": [messages], "chosen": [messages], "rejected": [messages], "tools": […]}
    {"prompt": "Where is KTM?", "chosen": "In Kathmandu.", "rejected": "In Pokhara."}
    {"chosen": [messages], "rejected": [messages]}

Messages are those of data/messages.py. A string is the user's as prompt, else the assistant's. Without a prompt, it is
the messages that both sides begin with; a side may also repeat the prompt. Of each side all assistant messages behind
the prompt are trained, but for those of weight 0. The whole file is read and checked at once and stays in memory.
No jax here.

Unusual: a string is text, never JSON of a list, since an answer may be JSON.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mirothinker_jax.data.fingerprint import RecordsDigest, digest_of_parts
from mirothinker_jax.data.keys import METADATA, known_members
from mirothinker_jax.data.messages import canonical_message
from mirothinker_jax.data.paths import Content, named_files, refuse_empty
from mirothinker_jax.data.record_files import READABLE, numbered_records
from mirothinker_jax.data.records import Record, canonical_record
from mirothinker_jax.data.strict_json import DataError, kind

_WAY_OUT = 'each record is {"prompt": …, "chosen": …, "rejected": …}, of strings or lists of messages'
SIDES = ("chosen", "rejected")


@dataclass(frozen=True)
class PreferencePair:
    """A pair as it stands in a file.

    Attributes:
      chosen, rejected: canonical records of whole conversations, which begin with the same messages.
      prompt: how many those are.
      where: FILE:LINE.
    """

    chosen: Record
    rejected: Record
    prompt: int
    where: str


@dataclass(frozen=True)
class PreferencePairs:
    """All pairs that a setting names. `fingerprint`: 64 hexadecimal digits that change when any of them does."""

    name: str
    pairs: Sequence[PreferencePair]
    fingerprint: str


def open_pairs(path: str, ignore: Collection[str] = ()) -> PreferencePairs:
    """The pairs of all files that `path` names (globs and commas, as in data.path), in their order.

    Args:
      ignore: keys to drop, as data.ignore has them; `pair.KEY` for one that messages know, too.

    Raises:
      DataError: FILE:LINE: field: what is wrong; way out.
    """
    ignore, digest = frozenset(ignore), RecordsDigest()
    pairs: list[PreferencePair] = []
    parts = [path] if os.path.lexists(path) else path.split(",")  # a file's name may hold a comma
    for part in filter(None, map(str.strip, parts)):
        for file, form in named_files(part, Content("dpo.path", "pair", READABLE)):
            before = len(pairs)
            for line, record in numbered_records(file, form, "pair", ignore):
                pairs.append(_pair(record, f"{file}:{line}", ignore))
                digest.add(pairs[-1].chosen)
                digest.add(pairs[-1].rejected)
            refuse_empty(file, len(pairs) - before, "pair")
    if not pairs:
        raise DataError(f"dpo.path {path!r} names no file; give {READABLE} (now in {Path.cwd()})")
    prompts = (str(pair.prompt) for pair in pairs)
    return PreferencePairs(path, pairs, digest_of_parts([digest.hexdigest(), *prompts]))


def _pair(record: Any, where: str, ignore: frozenset[str]) -> PreferencePair:
    try:
        if not isinstance(record, dict):
            raise DataError(f"record: is {kind(record)}; {_WAY_OUT}")
        members = known_members(record, "", "pair", ignore)
        missing = next((name for name in SIDES if name not in members), None)
        if missing is not None:
            has = ", ".join(sorted(map(str, record))) or "nothing"
            raise DataError(f"{missing}: missing (the record has {has}); {_WAY_OUT}")
        prompt = _messages(members.get("prompt", []), "prompt", "user", ignore)
        sides = [_messages(members[name], name, "assistant", ignore) for name in SIDES]
        sides = [side if side[: len(prompt)] == prompt else [*prompt, *side] for side in sides]
        count = len(prompt) or _shared(*sides)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    common = {key: members[key] for key in ("tools", "system", *METADATA) if key in members}
    records = []
    for name, side in zip(SIDES, sides, strict=True):
        _check_side(where, name, side, count, bool(prompt))
        records.append(canonical_record(common | {"messages": side}, where, ignore))
    if sides[0] == sides[1]:
        raise DataError(f"{where}: rejected: says the same as chosen; drop the record")
    return PreferencePair(records[0], records[1], count + bool(members.get("system")), where)


def _messages(given: Any, field: str, role: str, ignore: frozenset[str]) -> list[dict[str, Any]]:
    """Canonical messages; a string is one of `role`."""
    if isinstance(given, str):
        if not given.strip():
            raise DataError(f"{field}: is empty; write it, or drop the record")
        given = [{"role": role, "content": given}]
    if not isinstance(given, (list, tuple)):
        raise DataError(f"{field}: is {kind(given)}; it must be a string or a list of messages")
    return [canonical_message(message, f"{field}[{i}]", ignore) for i, message in enumerate(given)]


def _shared(a: Sequence[Any], b: Sequence[Any]) -> int:
    """How many messages two conversations begin with in common."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _check_side(where: str, name: str, side: Sequence[dict[str, Any]], prompt: int, told: bool) -> None:
    if prompt == 0:
        raise DataError(
            f"{where}: prompt: missing, and chosen and rejected begin with different messages; give the prompt"
        )
    behind = side[prompt:]
    if not behind:
        raise DataError(
            f"{where}: {name}: has nothing behind the prompt; give its answer, or drop the record"
        )
    if behind[0]["role"] != "assistant":
        what = "prompt" if told else "messages that both sides begin with"
        raise DataError(
            f"{where}: {name}: begins with a message of the {behind[0]['role']} behind the {what}; an assistant's must "
            "come first"
        )
    if not any(m["role"] == "assistant" and m.get("weight", 1) for m in behind):
        raise DataError(f"{where}: {name}: no assistant message to train on; give one, or drop the record")
