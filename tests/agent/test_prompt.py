"""The system prompt: the built-in template, a user's own, and the one-line errors."""

import json

import pytest

from mirothinker_jax.agent import prompt as prompts
from mirothinker_jax.agent.prompt import FINAL_REQUEST, fill, system_prompt, template, with_date
from mirothinker_jax.agent.setting import episode_setting
from mirothinker_jax.config import AgentConfig, Config, ConfigError
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
    with pytest.raises(
        ConfigError, match=r"mine\.txt has a placeholder other than \$date: 'this'; write \$\$"
    ):
        system_prompt(str(path), [SPEC], "hermes")


def test_the_day_that_a_prompt_says(tmp_path, monkeypatch):
    monkeypatch.setattr(prompts, "today", lambda: "2026-03-05")
    path = tmp_path / "mine.txt"
    path.write_text("Today is $date. Use:\n$tools")

    def day(date="", known="", file=path):
        agent = AgentConfig(system_prompt_file=str(file), date=date)
        return with_date(Config(stages=(), agent=agent), known).agent.date

    assert (day(), day(known="2026-01-01")) == ("2026-03-05", "2026-01-01")
    assert day(date="2020-02-29", known="2026-01-01") == "2020-02-29"
    said = episode_setting(AgentConfig(system_prompt_file=str(path), date="2020-02-29"), [SPEC], 64).system
    assert said is not None and said.startswith("Today is 2020-02-29. Use:\nServer: web")
    with pytest.raises(ConfigError, match=r"mine\.txt has \$date; give the day as agent\.date"):
        episode_setting(AgentConfig(system_prompt_file=str(path)), [SPEC], 64)
    with pytest.raises(ConfigError, match=r"agent\.date is '2026-3-5'; write a day as YYYY-MM-DD"):
        day(date="2026-3-5")
    # Nothing is set where nothing says it, and what is given is not ignored.
    path.write_text("Costs $$date.")
    assert day(known="2026-01-01") == day(file="") == ""
    with pytest.raises(
        ConfigError, match=r"agent\.date is 2020-02-29, and the system prompt \(.*mine\.txt\) has no"
    ):
        day(date="2020-02-29")


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
        with pytest.raises(
            ConfigError, match=r"wrong\.txt has a placeholder other than \$date, \$tools.*write \$\$"
        ):
            system_prompt(str(path), [])


@pytest.mark.parametrize("call_format", ["mcp", "hermes"])
def test_without_tools_none_are_spoken_of(call_format):
    prompt = system_prompt("", [], call_format)
    assert "\\boxed{ANSWER}" in prompt and "call" not in prompt
    setting = episode_setting(AgentConfig(preset="none"), [SPEC], 64, call_format)
    assert (setting.system, setting.max_calls, list(setting.functions)) == (prompt, 0, [])


def test_what_is_asked_for_later_may_come_from_files(tmp_path):
    path = tmp_path / "request.txt"
    path.write_text("You were asked: $question. Answer for $$5.\n", encoding="utf-8")
    text = template("final_prompt_file", str(path), FINAL_REQUEST)
    assert fill(text, question="Why $x?") == "You were asked: Why $x?. Answer for $5."
    assert (
        template("final_prompt_file", "", FINAL_REQUEST) == FINAL_REQUEST == fill(FINAL_REQUEST, question="?")
    )
    agent = AgentConfig(final_prompt_file=str(path), failure_prompt_file=str(path))
    setting = episode_setting(agent, [SPEC], 64)
    assert setting.final_request == setting.failure_request == text
    path.write_text("$failures", encoding="utf-8")
    assert (
        episode_setting(AgentConfig(restart_prompt_file=str(path)), [SPEC], 64).restart_prompt == "$failures"
    )


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("final_prompt_file", "$failures", "has a placeholder other than $question: 'failures'; write $$"),
        ("failure_prompt_file", "costs $5", "has a placeholder other than $question"),
        ("restart_prompt_file", "$question", "has no $failures; say where it goes"),
        ("final_prompt_file", b"\xff", "it is not UTF-8"),
    ],
)
def test_mistakes_in_them_are_named(tmp_path, key, text, message):
    path = tmp_path / "wrong.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as error:
        episode_setting(AgentConfig(**{key: str(path)}), [SPEC], 64)
    assert str(error.value).startswith(f"config.agent.{key}: ") and message in str(error.value)
    assert "wrong.txt" in str(error.value)
