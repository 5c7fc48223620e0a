"""Which keys records and messages may have. Any other is refused by name: its content would be lost without a word.

A key whose value is empty (null, "", [], {}) loses nothing and is as if absent, for every record of a table has all
columns. `data.ignore` drops a key knowingly: by its name wherever it stands (`thinking`), or by its path
(`messages.thinking`, `messages.tool_calls.index`, `record.prompt`).
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from mirothinker_jax.data.strict_json import DataError, kind

# Say where a record is from, not what is trained. They are carried along, and no model ever sees them.
METADATA = ("id", "task_id", "source", "split", "metadata")

KNOWN = {
    "record": ("messages", "tools", "system", *METADATA),
    "pair": ("prompt", "chosen", "rejected", "tools", "system", *METADATA),
    # `name` and `tool_call_id` are known and play no part: no template of Qwen's renders them.
    "messages": (
        *("role", "content", "reasoning_content", "reasoning", "weight"),
        *("tool_calls", "tool_call_id", "name"),
    ),
    "messages.content": ("type", "text"),
    "messages.tool_calls": ("id", "type", "index", "function"),
    "messages.tool_calls.function": ("name", "arguments"),
}

_WEIGHT = 'write "weight": 0 (context only) or 1 (train on it) into the messages'
_THOUGHT = "write it as reasoning_content"
_TEXT_ONLY = "only text is trained"
_WAYS_OUT = {  # how other formats' keys are written here
    "record": {
        **dict.fromkeys(("train", "weight", "loss", "mask", "loss_mask"), _WEIGHT),
        **dict.fromkeys(("images", "image", "videos", "audios"), _TEXT_ONLY),
        "functions": "write it as tools",
    },
    "pair": dict.fromkeys(("question", "instruction"), "write it as prompt"),
    "messages": {
        **dict.fromkeys(("thinking", "thought", "thoughts", "reasoning_details"), _THOUGHT),
        **dict.fromkeys(("train", "trainable", "loss", "loss_weight", "mask"), _WEIGHT),
        **dict.fromkeys(("images", "image", "videos", "audio"), _TEXT_ONLY),
        "function_call": "write it as tool_calls",
        "refusal": "write it as content",
        "from": "write it as role, user for human and assistant for gpt",
        "value": "write it as content",
    },
    "messages.content": {"thinking": _THOUGHT, "image_url": _TEXT_ONLY},
}


def known_members(value: Any, field: str, path: str, ignore: Container[str]) -> dict[str, Any]:
    """The members of a record, a message or a part of one whose keys are known, without those that are null.

    Args:
      field: where it is, for errors, such as `messages[1]`; "" for the record.
      path: what it is: a key of KNOWN.
      ignore: keys and paths that the user drops.

    Raises:
      DataError: not an object, or a key that is not known.
    """
    if not isinstance(value, Mapping):
        raise DataError(f"{field or 'record'}: is {kind(value)}; it must be an object")
    given = {key: item for key, item in value.items() if key not in ignore and f"{path}.{key}" not in ignore}
    unknown = [key for key, item in given.items() if key not in KNOWN[path] and not _is_empty(item)]
    if unknown:
        first = unknown[0]
        way_out = _WAYS_OUT.get(path, {}).get(first)
        drop = f"drop it with data.ignore={','.join(_ignorable(key, path) for key in unknown)}"
        where = f"{field}.{first}" if field else first
        raise DataError(
            f"{where}: unknown key, so its content would be lost; {f'{way_out}, or {drop}' if way_out else drop}"
        )
    return {key: item for key, item in given.items() if key in KNOWN[path] and item is not None}


def _ignorable(key: Any, path: str) -> str:
    """What `data.ignore` calls a key: its name, or its path where another place knows a key of that name."""
    return f"{path}.{key}" if any(key in known for known in KNOWN.values()) else str(key)


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, (str, list, tuple, Mapping)) and not value)
