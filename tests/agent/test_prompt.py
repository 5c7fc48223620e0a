"""The system prompt: the built-in template, a user's own, and the one-line errors."""

import json

import pytest

from mirothinker_jax.agent.prompt import system_prompt
from mirothinker_jax.config import ConfigError
from mirothinker_jax.tools.spec import CALL_TAGS, ToolSpec

SPEC = ToolSpec("web", "search", "Finds pages.", {"type": "object", "properties": {"q": {"type": "string"}}})


def test_the_built_in_one_shows_the_format_and_every_tool():
    prompt = system_prompt("", [SPEC])
    assert prompt is not None
    places = [prompt.index(tag) for tag in CALL_TAGS if not tag.startswith("</")]
    assert places == sorted(places)
    assert "Server: web\nTool: search\nFinds pages." in prompt and json.dumps(dict(SPEC.parameters)) in prompt
    assert "$" not in prompt


def test_a_users_template(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("  Tools cost $$5.\n$tools\n", encoding="utf-8")
    prompt = system_prompt(str(path), [SPEC])
    assert prompt.startswith("Tools cost $5.\nServer: web") and prompt == prompt.strip()


def test_the_one_of_a_format_whose_tools_the_chat_lists(tmp_path):
    prompt = system_prompt("", [SPEC], "hermes")
    assert "\\boxed{ANSWER}" in prompt and "web" not in prompt and not any(t in prompt for t in CALL_TAGS)
    path = tmp_path / "mine.txt"
    path.write_text("Tools cost $$5.", encoding="utf-8")
    assert system_prompt(str(path), [SPEC], "hermes") == "Tools cost $5."
    path.write_text("Use $tools.", encoding="utf-8")
    with pytest.raises(
        ConfigError, match=r"mine\.txt has \$tools, but with data.call_format=hermes .* take it out"
    ):
        system_prompt(str(path), [SPEC], "hermes")
    path.write_text("Use $this.", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"mine\.txt has a placeholder: 'this'; write \$\$"):
        system_prompt(str(path), [SPEC], "hermes")


def test_an_empty_template_means_no_system_message(tmp_path):
    path = tmp_path / "empty.txt"
    path.write_text(" \n")
    assert system_prompt(str(path), [SPEC]) is None


def test_mistakes_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"^config\.agent\.system_prompt_file: cannot read .*nowhere\.txt"):
        system_prompt(str(tmp_path / "nowhere.txt"), [])
    for text in ("$tool", "cost: $5"):
        path = tmp_path / "wrong.txt"
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"wrong\.txt has a placeholder other than \$tools.*write \$\$"):
            system_prompt(str(path), [])
