"""Usual slips of calls, with the schemas of the real tools and of tools that others bring."""

import pytest

from mirothinker_jax.tools import browse, sandbox, search
from mirothinker_jax.tools.mend import find_spec, mend_arguments
from mirothinker_jax.tools.spec import ToolCall, ToolSpec

PYTHON = sandbox.SPECS["run_python_code"]
SPECS = (search.SPEC, browse.SPEC, *sandbox.SPECS.values())
OTHER = ToolSpec(
    "other",
    "run_command",
    "",
    {
        "type": "object",
        "properties": {
            "command": {"type": "string"},
            "sandbox_id": {"type": "string"},
            "timeout": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
            "ratio": {"type": "number"},
            "lines": {"type": "array", "items": {"type": "integer"}},
            "nested": {"type": "object", "properties": {"deep": {"type": ["boolean", "null"]}}},
            "any": {},
        },
        "required": ["command", "sandbox_id"],
    },
)


@pytest.mark.parametrize(
    ("server", "tool", "found"),
    [
        ("search_and_scrape_webpage", "google_search", search.SPEC),
        ("tool-python", "google_search", search.SPEC),
        ("", "scrape_and_extract_info", browse.SPEC),
        ("python", "run_python_code", PYTHON),
        ("tool-python", "python", PYTHON),
        ("x", "python_code", PYTHON),
        ("tool-python", "bing_search", None),
        ("tool-python", "", None),
    ],
)
def test_the_tool_that_is_meant(server, tool, found):
    assert find_spec(ToolCall(server, tool), SPECS) is found


def test_a_name_that_two_servers_share_needs_its_server():
    first, second = (ToolSpec(server, "read", "", {}) for server in ("a", "b"))
    assert find_spec(ToolCall("b", "read"), (first, second)) is second
    assert find_spec(ToolCall("c", "read"), (first, second)) is None


@pytest.mark.parametrize(
    ("spec", "given", "mended"),
    [
        (search.SPEC, {"q": "x", "num": "10"}, {"q": "x", "num": 10}),
        (search.SPEC, {"q": "x", "num": 10.0, "page": " 2 "}, {"q": "x", "num": 10, "page": 2}),
        (search.SPEC, {"q": "x", "num": "10.0"}, {"q": "x", "num": 10}),
        (search.SPEC, {"q": "x", "num": None}, {"q": "x"}),
        *[
            (search.SPEC, {"autocorrect": v}, {"autocorrect": True})
            for v in ("true", "True", "yes", "1", 1, True)
        ],
        *[
            (search.SPEC, {"autocorrect": v}, {"autocorrect": False})
            for v in ("false", "FALSE", "no", "0", 0)
        ],
        # What a schema asks for is kept, and what cannot be read is left for the check to refuse.
        (search.SPEC, {"q": "10", "gl": "no"}, {"q": "10", "gl": "no"}),
        *[
            (search.SPEC, {"num": v}, {"num": v})
            for v in ("ten", "10.5", 10.5, True, "1e3", "１０", "9" * 5000, "", [])
        ],
        (search.SPEC, {"q": "x", "autocorrect": 2, "z": "1"}, {"q": "x", "autocorrect": 2, "z": "1"}),
        (PYTHON, {"code": "print(1)"}, {"code_block": "print(1)", "sandbox_id": "default"}),
        (
            PYTHON,
            {"code": "a", "code_block": "b", "sandbox_id": "s"},
            {"code": "a", "code_block": "b", "sandbox_id": "s"},
        ),
        (
            PYTHON,
            {"code": "a", "code_block": None, "sandbox_id": "s"},
            {"code_block": "a", "sandbox_id": "s"},
        ),
        (browse.SPEC, {"url": "u", "description": "d"}, {"url": "u", "info_to_extract": "d"}),
        (browse.SPEC, {"url": "u", "introduction": "d"}, {"url": "u", "info_to_extract": "d"}),
        (browse.SPEC, {"custom_headers": '{"X-A": "1"}'}, {"custom_headers": {"X-A": "1"}}),
        (browse.SPEC, {"custom_headers": "[1]"}, {"custom_headers": "[1]"}),
        (browse.SPEC, {"custom_headers": "[" * 5000}, {"custom_headers": "[" * 5000}),
        (OTHER, {"command": "ls"}, {"command": "ls", "sandbox_id": "default"}),
        (OTHER, {"sandbox_id": "s", "timeout": "60"}, {"sandbox_id": "s", "timeout": 60}),
        (OTHER, {"sandbox_id": "s", "ratio": "1e-3"}, {"sandbox_id": "s", "ratio": 0.001}),
        (OTHER, {"sandbox_id": "s", "lines": '["1", 2.0]'}, {"sandbox_id": "s", "lines": [1, 2]}),
        (
            OTHER,
            {"sandbox_id": "s", "nested": '{"deep": "true"}'},
            {"sandbox_id": "s", "nested": {"deep": True}},
        ),
        (OTHER, {"sandbox_id": "s", "any": "1"}, {"sandbox_id": "s", "any": "1"}),
    ],
)
def test_arguments(spec, given, mended):
    found = mend_arguments(given, spec)
    assert found == mended
    assert {name: type(value) for name, value in found.items()} == {n: type(v) for n, v in mended.items()}
