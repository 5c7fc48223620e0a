"""Records with anything anywhere, and keys that the user ignores."""

import copy
import functools
import json
import math
from datetime import date

import pytest

from mirothinker_jax.config import ConfigError, DataConfig
from mirothinker_jax.data.messages import DataError
from mirothinker_jax.data.records import canonical_record

U, A = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def messages(*items, **others):
    return {"messages": list(items), **others}


def called(arguments, **others):
    function = {"name": "f", "arguments": arguments}
    return messages(
        U, {"role": "assistant", "content": None, "tool_calls": [{"function": function} | others]}
    )


def test_values_nested_beyond_the_stack_are_one_line():
    deep = {}
    for _ in range(5000):
        deep = {"a": deep}
    with pytest.raises(DataError, match=r"^my\.jsonl:3: record: nested too deeply; write it flatter"):
        canonical_record(called(deep), "my.jsonl:3")


ODD = (
    *(
        None,
        True,
        0,
        1,
        1.5,
        math.nan,
        10**30,
        "",
        "x",
        "\ud800",
        "[]",
        "{}",
        "null",
        "[1]",
        '{"a": NaN}',
        [],
        [None],
    ),
    *(
        [1],
        {},
        {"a": None},
        {1: 2},
        b"x",
        (1,),
        {"role": "user"},
        [[]],
        {"type": "text", "text": "x"},
        "[{}]",
        [{}],
    ),
)
FULL = {
    "messages": [
        {"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": "q"}]},
        {**called({"a": {"b": [1]}}, id="1", type="function")["messages"][1], "reasoning": "t", "weight": 1},
        {"role": "tool", "content": "r", "tool_call_id": "1", "name": "f"},
        A,
    ],
    "tools": [TOOL],
    "metadata": {"k": 1},
}


def places(value, above=()):
    """The path of every value inside one."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*above, key)
        yield from places(item, (*above, key))


def test_a_record_with_an_odd_value_anywhere_is_canonical_or_one_line():
    read = 0
    for path in places(FULL):
        for odd in (*ODD, "gone"):
            record = copy.deepcopy(FULL)
            owner = functools.reduce(lambda at, key: at[key], path[:-1], record)
            if odd == "gone":
                del owner[path[-1]]
            else:
                owner[path[-1]] = odd
            try:
                canonical = canonical_record(record, "my.jsonl:1")
            except DataError as error:
                assert str(error).startswith("my.jsonl:1: ") and "\n" not in str(error), (path, odd)
                continue
            read += 1
            assert canonical_record(canonical, "my.jsonl:1") == canonical, (path, odd)
            json.dumps(canonical, allow_nan=False, ensure_ascii=False).encode()
    assert 200 < read < 800


@pytest.mark.parametrize(
    ("ignore", "record", "canonical"),
    [
        (("thinking",), messages({**U, "thinking": "x"}, A, thinking="y"), messages(U, A)),
        (("messages.thinking",), messages({**U, "thinking": "x"}, A), messages(U, A)),
        (("record.name",), messages({**U, "name": "n"}, A, name="n"), messages(U, A)),
        (("tools", "metadata"), messages(U, A, tools=7, metadata=date(2026, 1, 2)), messages(U, A)),
        (
            ("cache_control",),
            messages({**U, "content": [{"type": "text", "text": "q", "cache_control": 1}]}, A),
            messages(U, A),
        ),
        (("messages.tool_calls.note",), called({}, note=1), called({}, type="function")),
        (
            ("cache_control",),
            messages({**U, "content": [{"type": "text", "text": "q", "cache_control": 1}]}, A),
            messages(U, A),
        ),
    ],
)
def test_keys_that_the_user_ignores(ignore, record, canonical):
    assert canonical_record(record, "my.jsonl:1", ignore) == canonical


def test_a_path_ignores_no_other_place():
    with pytest.raises(DataError, match=r"^my\.jsonl:1: thinking: unknown key"):
        canonical_record(messages(U, A, thinking="x"), "my.jsonl:1", ("messages.thinking",))


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("content", "data.ignore names 'content', without which there is no record"),
        ("messages.role", "data.ignore names 'messages.role', without which"),
        ("messages[1].thinking", r"write it without numbers, as messages\.thinking"),
    ],
)
def test_what_cannot_be_ignored(key, message):
    with pytest.raises(ConfigError, match=message):
        DataConfig(ignore=(key,))
