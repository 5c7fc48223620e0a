"""Calls and boxed answers in what a model says, however badly it says them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirothinker_jax.agent.answer import boxed_answer
from mirothinker_jax.agent.parse import Malformed, parse_calls
from mirothinker_jax.tools.spec import CALL_TAGS, ToolCall, render_call

SEARCH = ToolCall("web", "search", {"q": "KTM"})
SCRAPE = ToolCall("web", "scrape", {"url": "http://a/b", "deep": {"x": [1, None]}})


def wire(arguments, server="web", tool="search"):
    return (
        f"<use_mcp_tool><server_name>{server}</server_name><tool_name>{tool}</tool_name>"
        f"<arguments>{arguments}</arguments></use_mcp_tool>"
    )


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        (render_call(SEARCH), [SEARCH]),
        (f"<think>look</think>{render_call(SEARCH)}<|im_end|>", [SEARCH]),
        (render_call(SCRAPE) + "\n" + render_call(SEARCH), [SCRAPE, SEARCH]),
        ("I know it. \\boxed{Nepal}", []),
        ("", []),
        ("2 < 3 and <b>bold</b>", []),
    ],
)
def test_calls_in_order(text, calls):
    assert parse_calls(text) == calls


def test_white_space_between_and_inside_tags_is_free():
    text = """<use_mcp_tool>
      <server_name> web </server_name>
      <tool_name>
        search
      </tool_name>
      <arguments>
        {"q":
           "KTM"}
      </arguments>
    </use_mcp_tool>"""
    assert parse_calls(text) == [SEARCH]


@pytest.mark.parametrize(
    "arguments",
    ["{'q': 'KTM'}", '{"q": "KTM",}', '{"q": "KTM"', '{q: "KTM"}', '```json\n{"q": "KTM"}\n```'],
    ids=["single quotes", "trailing comma", "unclosed", "bare key", "code fence"],
)
def test_slightly_broken_json_is_repaired(arguments):
    with pytest.raises(json.JSONDecodeError):
        json.loads(arguments)
    assert parse_calls(wire(arguments)) == [SEARCH]


@pytest.mark.parametrize("arguments", ["", "KTM", '["KTM"]', "17", '"KTM"', "null"])
def test_arguments_that_are_no_object(arguments):
    (call,) = parse_calls(wire(arguments))
    assert isinstance(call, Malformed)
    assert call.reason == "malformed call: the arguments of search are not a JSON object"


@pytest.mark.parametrize(
    "text",
    [
        "<use_mcp_tool>",
        wire("{}").replace("</use_mcp_tool>", ""),
        wire("{}").replace("<tool_name>search</tool_name>", ""),
        "<use_mcp_tool><tool_name>a</tool_name><server_name>b</server_name><arguments>{}</arguments>"
        "</use_mcp_tool>",
        "no call, but <arguments> in the answer \\boxed{x}",
    ],
    ids=["lone tag", "unclosed", "no tool", "wrong order", "stray tag"],
)
def test_tags_that_make_no_call_are_not_overlooked(text):
    (call,) = parse_calls(text)
    assert call == Malformed("malformed call: the tags do not form a whole call")


@pytest.mark.parametrize("arguments", ["[" * 400, '{"a": ' * 2000, '{"n": ' + "1" * 5000 + "}"])
def test_arguments_that_no_parser_takes_are_malformed(arguments):
    """Nested too deep, or a longer number than Python reads: an observation, not the end of a run."""
    head = "<use_mcp_tool><server_name>s</server_name><tool_name>t</tool_name>"
    (call,) = parse_calls(f"{head}<arguments>{arguments}</arguments></use_mcp_tool>")
    assert call == Malformed("malformed call: the arguments of t are not a JSON object")


def test_a_whole_call_beside_a_broken_one():
    found = parse_calls(f"{render_call(SEARCH)} <tool_name>more")
    assert found[0] == SEARCH and isinstance(found[1], Malformed) and len(found) == 2


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        (f"<think>I could say {render_call(SEARCH)}</think>\\boxed{{x}}", []),
        (f"<think>{render_call(SEARCH)}</think>{render_call(SCRAPE)}", [SCRAPE]),
        (f"<think>a</think><think><arguments></think>{render_call(SEARCH)}", [SEARCH]),
    ],
)
def test_what_is_thought_is_not_called(text, calls):
    assert parse_calls(text) == calls


plain = st.text() | st.lists(st.sampled_from([*CALL_TAGS, "<think>", "</think>", "<", "x"])).map("".join)


@given(st.dictionaries(plain, plain | st.integers() | st.none() | st.lists(plain, max_size=2), max_size=3))
def test_what_is_rendered_is_parsed(arguments):
    assert parse_calls(f"<think>…</think>{render_call(ToolCall('s', 't', arguments))}") == [
        ToolCall("s", "t", arguments)
    ]


@given(st.text() | st.lists(st.sampled_from([*CALL_TAGS, "</think>", "{", "}", '"', "x"])).map("".join))
def test_nothing_said_raises(text):
    for call in parse_calls(text):
        assert isinstance(call, (ToolCall, Malformed))


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{Kathmandu}", "Kathmandu"),
        (r"so \boxed{ 4,390 ft }.", "4,390 ft"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{a} then \boxed{b}", "b"),
        (r"\boxed{a} then \boxed{b", "a"),
        (r"\boxed{a{b} then \boxed{c}", "c"),
        (r"\boxed{outer \boxed{inner}}", "inner"),
        (r"\boxed{}", None),
        (r"\boxed{  }", None),
        (r"\boxed{?}", None),
        (r"\boxed{...}", None),
        (r"\boxed{a} \boxed{}", None),  # the last balanced one counts, and says nothing
        (r"\boxed{", None),
        (r"boxed{a}", None),
        ("", None),
        ("\\boxed{two\nlines}", "two\nlines"),
    ],
)
def test_the_last_balanced_box(text, answer):
    assert boxed_answer(text) == answer


@given(st.lists(st.sampled_from(["\\boxed{", "{", "}", "a", " ", "?"]), max_size=12).map("".join))
def test_an_answer_is_a_balanced_part_of_the_text(text):
    answer = boxed_answer(text)
    if answer is not None:
        assert answer == answer.strip() and answer in text
        assert answer.count("{") == answer.count("}")
