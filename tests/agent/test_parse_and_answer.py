"""Calls and boxed answers in what a model says, however badly it says them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirothinker_jax.agent.answer import boxed_answer
from mirothinker_jax.agent.wire.formats import WIRES, call_keys
from mirothinker_jax.agent.wire.turn import Malformed
from mirothinker_jax.tools.spec import ToolCall, render_call


def parse_calls(text):
    return list(WIRES["mcp"].parse(text).calls)


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


@pytest.mark.parametrize("arguments", ["[" * 400, '{"a": ' * 2000, '{"a": [' * 400 + "]}" * 400])
def test_arguments_that_no_parser_takes_are_malformed(arguments):
    """Nested too deep: an observation, not the end of a run."""
    head = "<use_mcp_tool><server_name>s</server_name><tool_name>t</tool_name>"
    (call,) = parse_calls(f"{head}<arguments>{arguments}</arguments></use_mcp_tool>")
    assert call == Malformed("malformed call: the arguments of t are not a JSON object")


def json_text(value):
    return json.dumps(value)[1:-1]


HEAD = "<use_mcp_tool><server_name>web</server_name><tool_name>search</tool_name><arguments>"
TAIL = "</arguments></use_mcp_tool>"


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        (f"{render_call(SEARCH)} <tool_name>more", [SEARCH]),
        (f"I will use a `<use_mcp_tool>` block, with <arguments>.\n{render_call(SEARCH)}", [SEARCH]),
        (f"{TAIL}{render_call(SEARCH)}{TAIL}", [SEARCH]),
        (f"<use_mcp_tool><server_name>s</server_name>\n{render_call(SEARCH)}", [SEARCH]),
        (f"<use_mcp_tool><server_name>s\n{render_call(SEARCH)}", [SEARCH]),
        (f'{HEAD}{{"q": "cut off\n{render_call(SEARCH)}', [SEARCH]),
        (f"{HEAD}{{}}{render_call(SEARCH)}", [SEARCH]),
        (f"{render_call(SCRAPE)}{HEAD}{{", [SCRAPE]),
        (f"{HEAD}17{TAIL}{render_call(SEARCH)}<arguments>", ["not a JSON object", SEARCH]),
        (f"<tool_name>{HEAD}{{", ["do not form a whole call"]),
    ],
)
def test_stray_tags_and_cut_calls_do_not_harm_a_whole_one(text, calls):
    found = parse_calls(text)
    assert len(found) == len(calls)
    for call, right in zip(found, calls, strict=True):
        assert right in call.reason if isinstance(call, Malformed) else call == right


@pytest.mark.parametrize(
    "q",
    [
        "x.split('</think>')",
        "<think>a</think>",
        TAIL,
        f"{HEAD}{{}}{TAIL}",
        "</arguments>",
        "<arguments>{",
        "\\boxed{5}",
    ],
)
def test_an_argument_may_hold_any_tag(q):
    """Written plainly, as JSON has it, and not as render_call escapes it."""
    text = f'<think>hm</think>so: {HEAD}{{"q": "{json_text(q)}"}}{TAIL} done'
    assert parse_calls(text) == [ToolCall("web", "search", {"q": q})]
    assert WIRES["mcp"].parse(text).words == "so:  done"


@pytest.mark.parametrize(
    ("arguments", "q"),
    [
        ('{"q": "s = \\"key\\\\\\": value\\"\nprint(s)"}', 's = "key\\": value"\nprint(s)'),
        ('{"q": "a\tb\r\nc"}', "a\tb\r\nc"),
        (r'{"q": "re.findall(\"\d+\", x)"}', r're.findall("\d+", x)'),
        (r'{"q": "C:\\new\user, \x41 and \u00e9"}', "C:\\new\\user, \\x41 and é"),
        (r"""{"q": "print(\'a\')"}""", "print('a')"),
        ('```json\n{"q": "a\nb"}\n```', "a\nb"),
        ('{"q": "a"}}', "a"),
        ('{"q": "a"};', "a"),
        ('arguments = {"q": "a"}', "a"),
        ('"{\\"q\\": \\"a\\"}"', "a"),
        ('{"q": "say "hello" now"}', 'say "hello" now'),
        ("{'q': 'it\\'s', 'n': None}", "it's"),
        ('{"q": "\\ud83d\\ude00 \\ud83d"}', "😀 \ufffd"),
    ],
)
def test_odd_json_is_read_as_it_was_meant(arguments, q):
    (call,) = parse_calls(wire(arguments))
    assert isinstance(call, ToolCall) and call.arguments["q"] == q


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        (f"<think>I could say {render_call(SEARCH)}</think>\\boxed{{x}}", []),
        (f"<think>{render_call(SEARCH)}</think>{render_call(SCRAPE)}", [SCRAPE]),
        (f"<think>a</think><think><arguments></think>{render_call(SEARCH)}", [SEARCH]),
        (f"opened by the prompt: {render_call(SCRAPE)}</think>{render_call(SEARCH)}", [SEARCH]),
        (f"{render_call(SEARCH)}<think>or {render_call(SCRAPE)}?</think>", [SEARCH]),
        (f"{render_call(SEARCH)}\n<think>or {render_call(SCRAPE)}", [SEARCH]),
        (f"Without <think>, then: {render_call(SEARCH)}", [SEARCH]),
        (f'<think>{HEAD}{{"q": "</think>"}}{TAIL} no</think>\\boxed{{x}}', []),
    ],
)
def test_what_is_thought_is_not_called(text, calls):
    assert parse_calls(text) == calls


@pytest.mark.parametrize("before", ["", "\n", "<think>a</think> "])
def test_a_thought_that_is_never_closed_is_all_thought(before):
    text = f"{before}<think>I could say {render_call(SEARCH)} or \\boxed{{x}}"
    assert parse_calls(text) == [
        Malformed("malformed call: it stands in a thought; close the thought with </think> first")
    ]
    assert WIRES["mcp"].parse(text).words.strip() == ""
    assert parse_calls(f"{before}<think>hm") == []


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
        (r"\boxed {a}", "a"),
        ("\\boxed\n{a}", "a"),
        (r"\boxed{[0, 1\}}", r"[0, 1\}"),  # an escaped brace does not close
        (r"\boxed{\{1\}}", r"\{1\}"),
        (r"\boxed{a} \boxed{b\}", "a"),
        (r"\boxed{a\\}", r"a\\"),  # an escaped backslash does not escape the brace
        (r"\\boxed{a}", "a"),
        (r"\boxed{50\%}", r"50\%"),
        *[
            (rf"\boxed{{{x}}}", None)
            for x in (
                "？",
                "？？",
                "……",
                "…",
                "。。",
                "unknown",
                "Unknown.",
                r"\text{unknown}",
                "**?**",
            )
        ],
        (r"\boxed{unknown author}", "unknown author"),
        (r"\boxed{0}", "0"),
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


@pytest.mark.parametrize("call_format", WIRES)
def test_a_key_is_of_the_tool_and_its_arguments(call_format):
    """Whatever their order, and whatever is thought around the call. What is no call has none."""
    keys, render = call_keys(call_format), WIRES[call_format].render
    one, other = ToolCall("web", "search", {"q": "a", "n": 1}), ToolCall("web", "search", {"n": 1, "q": "a"})
    (first, second), (again,) = keys(render([one, SCRAPE])), keys(f"<think>so</think>{render([other])}")
    assert first == again != second
    assert keys(render([ToolCall("web", "scrape", {"q": "a", "n": 1})])) != [first]
    assert keys("no call") == keys("<use_mcp_tool>oops<tool_call>") == []
