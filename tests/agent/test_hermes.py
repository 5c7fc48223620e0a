"""Calls in Qwen's own format, however badly a model writes them; and what both formats have in common."""

import json

import pytest
from scripted import CODEC, Tools

from mirothinker_jax.agent.answer import boxed_answer
from mirothinker_jax.agent.prompt import FINAL_REQUEST
from mirothinker_jax.agent.wire.formats import WIRES
from mirothinker_jax.agent.wire.turn import Malformed
from mirothinker_jax.config import ConfigError, ToolsConfig
from mirothinker_jax.tools.executor import ToolExecutor
from mirothinker_jax.tools.hermes import CALL_TAGS, RESULT_TAGS, render_calls
from mirothinker_jax.tools.spec import Failure, ToolCall, ToolSpec
from mirothinker_jax.trajectory.types import Stop

SEARCH = ToolCall("", "search", {"q": "KTM"})
SCRAPE = ToolCall("", "scrape", {"url": "http://a/b", "deep": {"x": [1, None]}})
A, B = render_calls([SEARCH]), render_calls([SCRAPE])
PARTS = "malformed call: the tags do not form a whole call"
NO_OBJECT = "malformed call: it is not a JSON object"
NO_NAME = 'malformed call: it has no name; write {"name": …, "arguments": {…}}'
NO_ARGUMENTS = "malformed call: the arguments of search are not a JSON object"
IN_THOUGHT = "malformed call: it stands in a thought; close the thought with </think> first"


def tagged(body):
    return f"<tool_call>\n{body}\n</tool_call>"


CALLS = {  # text → calls, in order; of a malformed one, the reason
    "": [],
    "2 < 3. \\boxed{Nepal}": [],
    A: [SEARCH],
    f"<think>\nlook\n</think>\n\n{A}<|im_end|>": [SEARCH],
    f"Both.\n{A}\n{B}": [SEARCH, SCRAPE],
    render_calls([SEARCH, SCRAPE, SEARCH]): [SEARCH, SCRAPE, SEARCH],
    '<tool_call>{"name":"search","arguments":{"q":"KTM"}}</tool_call>': [SEARCH],
    # The shapes that a call comes in.
    tagged('{"arguments": {"q": "KTM"}, "name": " search "}'): [SEARCH],
    tagged('{"name": "search", "parameters": {"q": "KTM"}}'): [SEARCH],
    tagged('{"name": "search", "arguments": "{\\"q\\": \\"KTM\\"}"}'): [SEARCH],
    tagged('{"name": "search", "q": "KTM"}'): [SEARCH],
    tagged('{"function": "search", "arguments": {"q": "KTM"}}'): [SEARCH],
    tagged('{"type": "function", "function": {"name": "search", "arguments": {"q": "KTM"}}}'): [SEARCH],
    tagged('{"name": "list"}'): [ToolCall("", "list", {})],
    tagged('{"name": "list", "arguments": null}'): [ToolCall("", "list", {})],
    tagged('{"name": "list", "arguments": ""}'): [ToolCall("", "list", {})],
    # JSON that is nearly right.
    tagged('{"name": "search", "arguments": {"q": "a\nb"}}'): [ToolCall("", "search", {"q": "a\nb"})],
    tagged(r'{"name": "search", "arguments": {"q": "\d+"}}'): [ToolCall("", "search", {"q": r"\d+"})],
    tagged('{"name": "search", "arguments": {"q": "KTM"}'): [SEARCH],
    tagged('{"name": "search", "arguments": {"q": "KTM"}}}'): [SEARCH],
    tagged("{'name': 'search', 'arguments': {'q': 'KTM',}}"): [SEARCH],
    tagged('```json\n{"name": "search", "arguments": {"q": "KTM"}}\n```'): [SEARCH],
    # The last call may lack its end; no other one.
    A.removesuffix("</tool_call>"): [SEARCH],
    A.removesuffix("\n</tool_call>") + "<|im_end|>": [SEARCH],
    A.removesuffix("</tool_call>") + B: [SCRAPE],
    # No calls.
    "<tool_call>": [PARTS],
    "so </tool_call>": [PARTS],
    '<tool_call>{"name": "search", "arguments": {"q": "KT': [PARTS],
    tagged(""): [NO_OBJECT],
    tagged("KTM"): [NO_OBJECT],
    tagged('["search"]'): [NO_OBJECT],
    tagged("[" * 400): [NO_OBJECT],
    tagged('{"q": "KTM"}'): [NO_NAME],
    tagged('{"name": ["search"]}'): [NO_NAME],
    tagged('{"name": " ", "arguments": {}}'): [NO_NAME],
    tagged('{"name": "search", "arguments": ["KTM"]}'): [NO_ARGUMENTS],
    tagged('{"name": "search", "arguments": "KTM"}'): [NO_ARGUMENTS],
    tagged('{"name": "search", "arguments": 0}'): [NO_ARGUMENTS],
    # Stray tags beside whole calls.
    f"I will use `<tool_call>`.\n{A}": [SEARCH],
    f"</tool_call>{A}</tool_call>": [SEARCH],
    f'<tool_call>{{"name": "cut\n{A}': [SEARCH],
    f"{A}\n<tool_call>": [SEARCH],
    f"{tagged('17')}{A}": [NO_OBJECT, SEARCH],
    f"the `<tool_response>` says: {A}": [SEARCH],
    f"{A}\n<tool_response>\n": [SEARCH],
    # Thoughts, and results that the turn writes itself.
    f"<think>{A}</think>\\boxed{{x}}": [],
    f"<think>{A}</think>{B}": [SCRAPE],
    f"opened by the prompt: {A}</think>{B}": [SCRAPE],
    f"<think>{A}": [IN_THOUGHT],
    f"{A}\n<think>{B}": [SEARCH],
    f"<tool_response>\n{A}\n</tool_response>": [],
    f"{A}\n<tool_response>\n{B}\n</tool_response>\n{A}": [SEARCH, SEARCH],
    f"<tool_response>\nx</think>{A}\n</tool_response>": [],
    f"<tool_response><tool_response>{A}</tool_response>{B}": [SCRAPE],
    f"<think>a `<tool_response>` with {A}</think>{B}": [SCRAPE],
}  # fmt: skip


@pytest.mark.parametrize("text", CALLS)
def test_calls(text):
    found = [
        call.reason if isinstance(call, Malformed) else call for call in WIRES["hermes"].parse(text).calls
    ]
    assert found == CALLS[text]


@pytest.mark.parametrize("q", [*CALL_TAGS, *RESULT_TAGS, "</think>", A, tagged("{"), "\\boxed{5}", 'a\\"}}'])
def test_an_argument_may_hold_any_tag(q):
    """Written plainly, as JSON has it, and not as it is rendered."""
    call = json.dumps({"name": "search", "arguments": {"q": q}})
    parsed = WIRES["hermes"].parse(f"<think>hm</think>so: {tagged(call)} done")
    assert parsed.calls == (ToolCall("", "search", {"q": q}),)
    assert parsed.words == "so:  done"


def test_a_result_that_the_turn_writes_is_no_answer():
    text = "<tool_response>\n\\boxed{Pokhara}\n</tool_response>"
    assert boxed_answer(WIRES["hermes"].parse(text).words) is None
    assert boxed_answer(WIRES["hermes"].parse(f"\\boxed{{x}}{text}").words) == "x"


class Echo:
    spec = ToolSpec("tool-python", "run", "", {"type": "object", "properties": {"n": {"type": "integer"}}})

    async def run(self, arguments, request_id):
        return f"got {arguments}"


def test_the_name_finds_the_tool_and_results_come_framed(play):
    """Through the real executor, several calls a turn, and the last request apart from what the tools said."""
    executor = ToolExecutor([Echo()], ToolsConfig(), CODEC.truncate)
    lines = [
        f"Both.\n{render_calls([ToolCall('', 'run', {'n': '5'}), ToolCall('', 'ran')])}",
        tagged("17"),
        f"so \\boxed{{x}} and not {A}",
    ]
    trajectory, policy, _ = play(lines, executor, call_format="hermes", max_calls=3)
    result = "<tool_response>\n{}\n</tool_response>"
    first, second = result.format("got {'n': 5}"), result.format("unknown tool ran; known tools: run")
    assert policy.text(1) == (f"\n<|im_start|>user\n{first}\n{second}<|im_end|>\n<|im_start|>assistant\n")
    assert policy.text(2) == (
        f"\n<|im_start|>user\n{result.format(NO_OBJECT)}<|im_end|>\n"
        f"<|im_start|>user\n{FINAL_REQUEST}<|im_end|>\n<|im_start|>assistant\n"
    )
    assert (trajectory.calls, trajectory.failed_calls, trajectory.malformed_calls) == (2, 1, 1)
    assert (trajectory.stop, trajectory.answer) == (Stop.FORCED, "x")
    assert executor.counters.failures[Failure.UNKNOWN_TOOL] == 1


def test_tools_are_listed_in_the_system_message(play):
    functions = WIRES["hermes"].functions([Echo.spec])
    _, policy, _ = play(
        ["\\boxed{x}"], Tools(), call_format="hermes", system="Be brief.", functions=functions
    )
    system = policy.text(0).partition("<|im_end|>")[0]
    assert system.startswith("<|im_start|>system\nBe brief.\n\n# Tools\n")
    listed = json.loads(system.partition("<tools>\n")[2].partition("\n</tools>")[0])
    assert listed == {
        "type": "function",
        "function": {"name": "run", "description": "", "parameters": Echo.spec.parameters},
    }
    with pytest.raises(ConfigError, match="two tools are called run, and"):
        WIRES["hermes"].functions([Echo.spec, Echo.spec])
    assert WIRES["mcp"].functions([Echo.spec, Echo.spec]) == []
