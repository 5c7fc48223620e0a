"""Both call formats against text and calls of any kind: nothing raises, calls come back, thoughts are not called."""

import json
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirothinker_jax.agent.answer import boxed_answer
from mirothinker_jax.agent.wire import lenient_json
from mirothinker_jax.agent.wire.formats import WIRES
from mirothinker_jax.agent.wire.turn import Malformed
from mirothinker_jax.data.templates import CHATML, QWEN3, assistant_text
from mirothinker_jax.tools import hermes
from mirothinker_jax.tools.spec import CALL_TAGS, ToolCall, render_calls

HEAD = "<use_mcp_tool><server_name>web</server_name><tool_name>search</tool_name><arguments>"
TAIL = "</arguments></use_mcp_tool>"
FRAMES = {"mcp": (HEAD, TAIL), "hermes": ('<tool_call>{"name": "search", "arguments": ', "}</tool_call>")}
BITS = [
    *CALL_TAGS,
    *hermes.CALL_TAGS,
    *hermes.RESULT_TAGS,
    *(
        "<think>",
        "</think>",
        "<|im_end|>",
        "\\boxed{",
        HEAD,
        TAIL,
        *FRAMES["hermes"],
        '{"name": "a"',
        "{'q': '",
    ),
    *(
        "<",
        "{",
        "}",
        "[",
        "]",
        '"',
        "'",
        "\\",
        ":",
        ",",
        "x",
        " ",
        "\n",
        "\0",
        "\ud800",
        "\u2028",
        "é",
        "1e999",
        "None",
    ),
]
bits = st.lists(st.sampled_from(BITS), max_size=30).map("".join)
texts = st.text() | bits
# A lone surrogate is no character: it comes back as U+FFFD.
written = texts.map(lambda text: text.encode("utf-8", "replace").decode())
leaves = written | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False) | st.booleans() | st.none()
values = st.recursive(
    leaves, lambda v: st.lists(v, max_size=3) | st.dictionaries(written, v, max_size=3), max_leaves=8
)
arguments = st.dictionaries(written, values, max_size=3)
names = st.text("abc_-.é", min_size=1)
formats = st.sampled_from(list(WIRES))


def spoken(call_format, calls):
    return [ToolCall(server if call_format == "mcp" else "", tool, given) for server, tool, given in calls]


@given(formats, st.lists(st.tuples(names, names, arguments), min_size=1, max_size=3))
def test_what_is_rendered_is_parsed(call_format, calls):
    wire, calls = WIRES[call_format], spoken(call_format, calls)
    parsed = wire.parse(f"<think>…</think>so: {wire.render(calls)}<|im_end|>")
    assert list(parsed.calls) == calls
    assert parsed.words.split() == ["so:", "<|im_end|>"]


@given(formats, texts)
def test_nothing_said_raises(call_format, text):
    parsed = WIRES[call_format].parse(text)
    assert all(isinstance(call, (ToolCall, Malformed)) for call in parsed.calls)
    for call in parsed.calls:  # what is read can be written, and sent
        if isinstance(call, ToolCall):
            json.dumps(dict(call.arguments), ensure_ascii=False).encode()
    boxed_answer(parsed.words)


@given(formats, st.tuples(names, names, arguments), bits)
def test_no_text_of_a_thought_or_a_quoted_result_is_called(call_format, call, text):
    wire = WIRES[call_format]
    said = f"{text}{wire.render(spoken(call_format, [call]))}"
    parsed = wire.parse(f"<think>{said.replace('</think>', '')}</think>so")
    assert parsed == wire.parse("<think>x</think>so")
    unclosed = wire.parse(f"<think>{said.replace('</think>', '')}")
    assert unclosed.words == "" and not any(isinstance(c, ToolCall) for c in unclosed.calls)
    if call_format == "hermes":
        quoted = wire.parse(f"<tool_response>{said.replace('</tool_response>', '')}</tool_response>so")
        assert quoted == wire.parse("<tool_response>x</tool_response>so")


PROGRAM = "".join(f"print('{n}', \"it's\", f\"{{x}}\\n\\t\", r'\\d')  # [{n}, {{}}],\n" for n in range(900))
QUOTED = json.dumps(PROGRAM)
FAULTS = {
    "a brace is missing": f'{{"code_block": {QUOTED}',
    "a comma too many": f'{{"code_block": {QUOTED},}}',
    "Python's quotes": repr({"code_block": PROGRAM}),
    "Python's constants": f'{{"code_block": {QUOTED}, "n": None, "b": True, }}',
    "a bare key": f"{{code_block: {QUOTED}}}",
    "raw newlines": '{"code_block": ' + QUOTED.replace("\\n", "\n").replace("\\\n", "\\\\n") + "}",
    "a fence": f'```json\n{{"code_block": {QUOTED}}}\n```',
    "a constant that does not fit": f'{{"code_block": {QUOTED}, "n": [1, True, {{}}, {{"x": "y",}},]',
}


@pytest.mark.parametrize("call_format", WIRES)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_long_program_in_faulty_json_is_read_to_the_letter(call_format, fault, monkeypatch):
    """By no guess: json_repair makes another program of most of these."""
    monkeypatch.setattr(lenient_json, "json_repair", None)
    text = f"{HEAD}{FAULTS[fault]}{TAIL}"
    if call_format == "hermes":
        text = "<tool_call>" + FAULTS[fault].replace("{", '{"name": "run", ', 1) + "</tool_call>"
    (call,) = WIRES[call_format].parse(text).calls
    assert isinstance(call, ToolCall) and call.arguments["code_block"] == PROGRAM


@pytest.mark.parametrize("call_format", WIRES)
def test_guesses_have_a_limit_for_the_whole_turn(call_format, monkeypatch):
    """One turn of many faulty calls stops no other episode for long; benchmarks/parse_cost.py has the times."""
    read = []

    def loads(text, **_):
        read.append(len(text))
        return {"name": "a", "q": "".join(text[i] for i in range(len(text)))}

    monkeypatch.setattr(lenient_json, "json_repair", SimpleNamespace(loads=loads))
    head, tail = FRAMES[call_format]
    calls = WIRES[call_format].parse(f'{head}{{"q": "a"b"}}{tail}' * 1000).calls
    assert len(calls) == 1000 and isinstance(calls[0], ToolCall) and isinstance(calls[-1], Malformed)
    assert 50 <= len(read) <= 100
    read.clear()
    assert isinstance(WIRES[call_format].parse(f'{head}{{"q": "a"{"b" * 9000}"}}{tail}').calls[0], Malformed)
    assert not read


@pytest.mark.parametrize(
    ("content", "between"),
    [("<think>t</think>", "\n\n"), ("so", "\n\n"), ("so\n", "\n\n"), ("", "")],
)
def test_two_newlines_stand_before_a_call(content, between):
    call = '<use_mcp_tool>\n<server_name>s</server_name>\n<tool_name>t</tool_name>\n<arguments>\n{"q": "x"}\n'
    call += "</arguments>\n</use_mcp_tool>"
    calls = [ToolCall("s", "t", {"q": "x"})]
    assert render_calls(calls, content) == f"{between}{call}"
    assert render_calls(calls) == f"\n\n{call}"  # after what an agent says
    assert render_calls(calls * 2, content) == f"{between}{call}\n\n{call}"
    assert render_calls([], content) == ""
    plain = assistant_text(CHATML, {"content": content}, last=False).text
    assert render_calls(calls, plain) == f"{between}{call}"
    tidied = assistant_text(QWEN3, {"content": "<think>t</think>"}, last=False).text
    assert tidied.endswith("</think>\n\n") and render_calls(calls, tidied) == call
