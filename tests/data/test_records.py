"""What records become, and the one line that each kind of wrong one ends with."""

import json
import math
from datetime import date

import pytest

from mirothinker_jax.data.messages import DataError
from mirothinker_jax.data.records import canonical_record

U, A = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def messages(*items, **others):
    return {"messages": list(items), **others}


def said(**others):
    return messages(U, {**A, **others})


def called(arguments, **others):
    function = {"name": "f", "arguments": arguments}
    return messages(
        U, {"role": "assistant", "content": None, "tool_calls": [{"function": function} | others]}
    )


CANONICAL_CALL = {"type": "function", "function": {"name": "f", "arguments": {}}}


@pytest.mark.parametrize(
    ("record", "canonical"),
    [
        # keys that are empty are as if absent, known or not
        (
            said(name=None, weight=None, tool_calls=None, reasoning=None, refusal=None, audio=None),
            messages(U, A),
        ),
        (said(tool_calls=[], annotations=[], thinking="", function_call={}), messages(U, A)),
        (messages(U, A, tools=None, images=[], system=None, text=""), messages(U, A)),
        (messages(U, A, tools="", system=""), messages(U, A)),
        (said(tool_calls=""), messages(U, A)),
        (messages(U, A, metadata={"x": 1, "y": None}, id=7), messages(U, A, id=7, metadata={"x": 1})),
        (messages({**U, "name": "Ann", "weight": 0}, A), messages(U, A)),
        (json.dumps([U, A]), messages(U, A)),
        # the thought
        (said(reasoning_content="t"), messages(U, {**A, "reasoning_content": "t"})),
        (said(reasoning="t"), messages(U, {**A, "reasoning_content": "t"})),
        (said(reasoning="t", reasoning_content="t"), messages(U, {**A, "reasoning_content": "t"})),
        (said(reasoning="t", reasoning_content=""), messages(U, {**A, "reasoning_content": "t"})),
        (
            said(content=None, reasoning="t"),
            messages(U, {"role": "assistant", "content": None, "reasoning_content": "t"}),
        ),
        (messages({**U, "reasoning_content": ""}, {**A, "reasoning_content": ""}), messages(U, A)),
        # weights, also as Arrow's doubles and as booleans
        (messages(U, {**A, "weight": 0.0}, U, A), messages(U, {**A, "weight": 0}, U, A)),
        (messages(U, {**A, "weight": False}, U, A), messages(U, {**A, "weight": 0}, U, A)),
        (said(weight=1.0), said(weight=1)),
        # text in parts
        (
            said(content=[{"type": "text", "text": "a"}, {"type": "text", "text": "b\n"}]),
            said(content="ab\n"),
        ),
        (said(content=[{"type": "text", "text": "a", "image_url": None}]), said()),
        (messages({**U, "content": ""}, A), messages({**U, "content": ""}, A)),
        # system beside messages
        (messages(U, A, system="s"), messages({"role": "system", "content": "s"}, U, A)),
        # tools
        (messages(U, A, tools=[TOOL]), messages(U, A, tools=[TOOL])),
        (messages(U, A, tools=json.dumps([TOOL])), messages(U, A, tools=[TOOL])),
        (messages(U, A, tools=[json.dumps(TOOL)]), messages(U, A, tools=[TOOL])),
        (messages(U, A, tools="[]"), messages(U, A)),
        (messages(U, A, tools="null"), messages(U, A)),
        (
            messages(
                U, A, tools=[{**TOOL, "function": {**TOOL["function"], "parameters": '{"type": "object"}'}}]
            ),
            messages(U, A, tools=[TOOL]),
        ),
        (
            messages(
                U,
                A,
                tools=[
                    {
                        "type": "function",
                        "function": {
                            "name": "f",
                            "description": None,
                            "strict": None,
                            "parameters": {
                                "properties": {"a": {"default": None, "enum": ["x", None]}, "b": None},
                                "required": ["a"],
                            },
                        },
                    }
                ],
            ),
            messages(
                U,
                A,
                tools=[
                    {
                        "type": "function",
                        "function": {
                            "name": "f",
                            "parameters": {
                                "properties": {"a": {"default": None, "enum": ["x", None]}},
                                "required": ["a"],
                            },
                        },
                    }
                ],
            ),
        ),
        # calls
        (called(""), called({}, type="function")),
        (called(" \n"), called({}, type="function")),
        (called(None, id=None, index=0), called({}, type="function")),
        (
            called({"q": "x", "url": None, "of": {"a": None, "b": [None, {"c": None}]}}),
            called({"q": "x", "of": {"b": [None, {}]}}, type="function"),
        ),
        (called('{"q":  1, "url": null}'), called('{"q":  1, "url": null}', type="function")),
        (
            said(content="", tool_calls=json.dumps([CANONICAL_CALL])),
            said(content="", tool_calls=[CANONICAL_CALL]),
        ),
    ],
)
def test_what_a_record_becomes(record, canonical):
    record = {"messages": record} if isinstance(record, str) else record
    given = json.dumps(record)
    read = canonical_record(record, "my.jsonl:1")
    assert read == canonical
    assert json.dumps(record) == given, "what the caller holds stays as it is"
    assert canonical_record(read, "my.jsonl:1") == read
    assert all(type(m["weight"]) is int for m in read["messages"] if "weight" in m)


SCHEMA = 'write {"type": "function", "function": {"name": …, "parameters": {…}}}'
KEY = "unknown key, so its content would be lost;"


@pytest.mark.parametrize(
    ("record", "message"),
    [
        # the record
        ([1], 'record: is a list; it must be an object {"messages": […]}'),
        ({"text": "x", "id": 1}, "messages: missing (the record has id, text); each record is"),
        ({"conversations": [{"from": "human", "value": "q"}]}, "messages: missing (the record has conv"),
        ({}, "messages: missing (the record has nothing); each record is"),
        ({"messages": "hi"}, "messages: is a string; it must be a list of messages"),
        ({"messages": "[{"}, "messages: unreadable JSON (Expecting property"),
        ({"messages": {"role": "user"}}, "messages: is an object; it must be a list"),
        ({"messages": b"[]"}, "messages: is of Python's type bytes; it must be a list"),
        ({"messages": []}, "messages: is empty; give at least one user and one assistant message"),
        (messages(U), "messages: no assistant message to train on; add one, or drop the record"),
        (messages(U, {**A, "weight": 0}), "messages: no assistant message to train on"),
        (
            messages(U, A, prompt="p", prompt_id=3, name="n"),
            f"prompt: {KEY} drop it with data.ignore=record.prompt,prompt_id,record.name",
        ),
        (messages(U, A, train=False), f'train: {KEY} write "weight": 0 (context only) or 1'),
        (messages(U, A, functions=[{}]), f"functions: {KEY} write it as tools, or drop it with"),
        (messages(U, A, images=["x"]), f"images: {KEY} only text is trained, or drop it with data.ignore"),
        (
            messages({"role": "system", "content": "a"}, U, A, system="b"),
            "system: beside messages that begin with a system message; keep one of the two",
        ),
        (messages(U, A, system=["b"]), "system: is a list; it must be a string"),
        (
            messages(U, A, metadata=date(2026, 1, 2)),
            "metadata: is of Python's type date, which JSON cannot say",
        ),
        (messages(U, A, metadata={1: 2}), "metadata: has the key 1; keys of an object must be strings"),
        # keys of a message
        (messages(U, "a"), "messages[1]: is a string; it must be an object"),
        (messages(U, None), "messages[1]: is null; it must be an object"),
        (said(thinking="t"), f"messages[1].thinking: {KEY} write it as reasoning_content, or drop it with"),
        (said(train=False), f'messages[1].train: {KEY} write "weight": 0 (context only) or 1'),
        (said(id=3), f"messages[1].id: {KEY} drop it with data.ignore=messages.id"),
        (said(function_call={"name": "f"}), f"messages[1].function_call: {KEY} write it as tool_calls"),
        (said(refusal="No."), f"messages[1].refusal: {KEY} write it as content"),
        (messages({"from": "human", "value": "q"}, A), f"messages[0].from: {KEY} write it as role"),
        # roles
        (messages(U, {"content": "a"}), "messages[1].role: missing; every message has a role and a content"),
        (messages({**U, "role": "human"}, A), "messages[0].role: unknown role 'human'; write 'user'"),
        (
            messages({**U, "role": "developer"}, A),
            "messages[0].role: unknown role 'developer'; write 'system'",
        ),
        (messages({**U, "role": "function"}, A), "messages[0].role: unknown role 'function'; write 'tool'"),
        (messages({**U, "role": "critic"}, A), "messages[0].role: unknown role 'critic'; use one of system,"),
        (messages({**U, "role": ["user"]}, A), "messages[0].role: unknown role ['user']; use one of"),
        # content
        (messages(U, {"role": "assistant"}), "messages[1].content: missing; every message has a content"),
        (said(content=None), 'messages[1].content: is null; every message has a content: write it, or ""'),
        (messages({**U, "content": None}, A), "messages[0].content: is null; every message"),
        (said(content=[]), "messages[1].content: is null"),
        (
            messages({**U, "content": 3}, A),
            "messages[0].content: is a number; it must be a string, or a list",
        ),
        (
            said(content={"type": "text", "text": "a"}),
            "messages[1].content: is an object; it must be a string",
        ),
        (said(content=["a"]), "messages[1].content[0]: is a string; it must be an object"),
        (said(content=[{"type": "text"}]), "messages[1].content[0]: not a text part; write"),
        (said(content=[{"text": "a"}]), "messages[1].content[0]: not a text part; write"),
        (
            said(content=[{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}]),
            "messages[1].content[1].type: is 'image_url'; only parts of type text are trained: take it out",
        ),
        (
            said(content=[{"type": "thinking", "thinking": "t"}]),
            "messages[1].content[0].type: is 'thinking'; write its text as reasoning_content",
        ),
        (
            said(content=[{"type": "text", "text": "a", "cache_control": {"type": "x"}}]),
            f"messages[1].content[0].cache_control: {KEY} drop it with data.ignore=cache_control",
        ),
        (
            said(content="ab\ud800"),
            "messages[1].content: character 2 is \\ud800, half a surrogate pair; write",
        ),
        (said(content=b"a"), "messages[1].content: is of Python's type bytes; it must be a string"),
        # thought and weight
        (
            said(reasoning="t", reasoning_content="u"),
            "messages[1].reasoning: is another text than reasoning_content; keep one of the two",
        ),
        (said(reasoning={"text": "t"}), "messages[1].reasoning: is an object; it must be a string"),
        (
            messages({**U, "reasoning": "t"}, A),
            "messages[0].reasoning_content: on a user message; only an assistant thinks",
        ),
        (said(weight=0.5), "messages[1].weight: is 0.5; use 1 (train on it) or 0"),
        (said(weight="0"), "messages[1].weight: is '0'; use 1"),
        (said(weight=math.nan), "messages[1].weight: is nan; use 1"),
        (messages({**U, "weight": 1}, A), "messages[0].weight: is 1 on a user message; only an assistant's"),
        # calls
        (
            messages({**U, "tool_calls": [CANONICAL_CALL]}, A),
            "messages[0].tool_calls: on a user message; only",
        ),
        (said(tool_calls={"function": {}}), "messages[1].tool_calls: is an object; it must be a list"),
        (said(tool_calls=5), "messages[1].tool_calls: is a number; it must be a list"),
        (said(tool_calls="call f"), "messages[1].tool_calls: unreadable JSON (Expecting value"),
        (said(tool_calls=[None]), "messages[1].tool_calls[0]: not a function call; write"),
        (said(tool_calls=[{"name": "f"}]), "messages[1].tool_calls[0]: not a function call; write"),
        (
            said(tool_calls=[{"function": {"name": ""}}]),
            "messages[1].tool_calls[0].function.name: is a string;",
        ),
        (said(tool_calls=[{"function": {}}]), "messages[1].tool_calls[0].function.name: is null; it must be"),
        (called({}, type="custom"), "messages[1].tool_calls[0].type: is 'custom'; only a function"),
        (called({}, note="x"), f"messages[1].tool_calls[0].note: {KEY} drop it with data.ignore=note"),
        (called("[1]"), "messages[1].tool_calls[0].function.arguments: is a list; it must be a JSON object"),
        (called('"{}"'), "messages[1].tool_calls[0].function.arguments: is a string; it must be a JSON"),
        (called("null"), "messages[1].tool_calls[0].function.arguments: is null; it must be a JSON object"),
        (called(5), "messages[1].tool_calls[0].function.arguments: is a number; it must be a JSON object"),
        (called("{'a': 1}"), "messages[1].tool_calls[0].function.arguments: unreadable JSON (Expecting prop"),
        (
            called('{"q": NaN}'),
            "messages[1].tool_calls[0].function.arguments: unreadable JSON (NaN is not JSON)",
        ),
        (
            called('{"q": 1e999}'),
            "messages[1].tool_calls[0].function.arguments: unreadable JSON (the number 1e",
        ),
        (
            called('{"q": 1, "q": 2}'),
            "messages[1].tool_calls[0].function.arguments: unreadable JSON (the key 'q'",
        ),
        (
            called('{"q": "\\ud800"}'),
            "messages[1].tool_calls[0].function.arguments.q: character 0 is \\ud800,",
        ),
        (
            called({"q": [math.inf]}),
            "messages[1].tool_calls[0].function.arguments.q[0]: is inf, which JSON has",
        ),
        (
            called("[" * 5000),
            "messages[1].tool_calls[0].function.arguments: unreadable JSON (nested too deep",
        ),
        # tools
        (messages(U, A, tools=[TOOL, None]), f"tools[1]: is null; {SCHEMA}"),
        (messages(U, A, tools=TOOL), "tools: is an object; it must be a list: [{"),
        (messages(U, A, tools=json.dumps(TOOL)), "tools: is an object; it must be a list"),
        (messages(U, A, tools="find"), "tools: unreadable JSON (Expecting value"),
        (
            messages(U, A, tools='[{"x": Infinity}]'),
            "tools: unreadable JSON (Infinity is not JSON); repair it",
        ),
        (messages(U, A, tools=7), "tools: is a number; it must be a list"),
        (messages(U, A, tools=[{"name": "f"}]), f"tools[0]: not a function's schema; {SCHEMA}"),
        (
            messages(U, A, tools=[{"type": "x", "function": {"name": "f"}}]),
            "tools[0]: not a function's schema",
        ),
        (messages(U, A, tools=[{"type": "function", "function": {}}]), "tools[0].function.name: is null; it"),
        (
            messages(U, A, tools=[{"type": "function", "function": {"name": "f", "parameters": [1]}}]),
            "tools[0].function.parameters: is a list; it must be a JSON Schema object",
        ),
        (
            messages(U, A, tools=[{"type": "function", "function": {"name": "f", "description": 3}}]),
            "tools[0].function.description: is a number; it must be a string",
        ),
    ],
)
def test_a_wrong_record_is_one_line(record, message):
    with pytest.raises(DataError) as caught:
        canonical_record(record, "my.jsonl:3")
    assert str(caught.value).startswith(f"my.jsonl:3: {message}")
    assert "\n" not in str(caught.value)
