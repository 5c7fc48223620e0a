"""What we say to the policy, as template files, because a released checkpoint wants the words it was trained with.

Templates are filled by `string.Template`. In the system prompt of "mcp" `$tools` becomes the list of tools with their
JSON schemas; in "hermes" the chat lists the tools after the template's words, where Qwen's own chat template puts them.
`$date` is a day that does not change while a run lasts (`with_date`), and that the built-in templates do not say. What
we ask for later may hold `$question`.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import string
from collections.abc import Mapping, Sequence
from pathlib import Path

from mirothinker_jax.agent.wire.formats import WIRES
from mirothinker_jax.config import Config, ConfigError, check
from mirothinker_jax.tools.spec import ToolSpec

FINAL_REQUEST = "No calls are left. Answer now in \\boxed{}."
FAILURE_REQUEST = (
    "This attempt ends here, without an answer. For whoever tries next, write down in a few lines: what was tried, why "
    "it did not lead to an answer, and every fact found on the way that is worth keeping, with its source. Make no "
    "calls."
)
RESTART_PROMPT = "$question\n\nEarlier attempts at this failed. What they left for you:\n\n$failures"

_DIRECT_PROMPT = Path(__file__).with_name("system_prompt_direct.txt")


def describe(specs: Sequence[ToolSpec]) -> str:
    """The tools as the model reads them: server, tool, what it does, JSON schema of its arguments."""
    return "\n\n".join(
        f"Server: {s.server}\nTool: {s.name}\n{s.description}\nArguments: {json.dumps(dict(s.parameters))}"
        for s in specs
    )


def with_date(config: Config, known: str = "") -> Config:
    """`config` with the day that $date becomes, where its system prompt has one: agent.date, else `known`, which a run
    began with, else today.

    Raises ConfigError where a day is given that the prompt does not say.
    """
    agent = config.agent
    file = agent.system_prompt_file
    says = bool(file) and "date" in string.Template(_read("system_prompt_file", Path(file))).get_identifiers()
    if not says:
        check(
            not agent.date,
            f"agent.date is {agent.date}, and the system prompt ({file or 'the built-in one'}) has no $date; put it "
            "there (agent.system_prompt_file), or leave the date out",
        )
        return config
    return dataclasses.replace(config, agent=dataclasses.replace(agent, date=agent.date or known or today()))


def today() -> str:
    """The day by UTC, as YYYY-MM-DD."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def system_prompt(
    path: str, specs: Sequence[ToolSpec], call_format: str = "mcp", date: str = ""
) -> str | None:
    """The filled template at `path`; None where the template is empty. "" is a built-in one: the call format's, or
    where there are no tools, one that speaks of none. `date`: of `with_date`.

    Raises ConfigError for a missing file or a $placeholder that the call format does not have.
    """
    wire = WIRES[call_format]
    file = Path(path) if path else wire.prompt_file if specs else _DIRECT_PROMPT
    values = {"date": date} | ({} if wire.function else {"tools": describe(specs)})
    text = _read("system_prompt_file", file)
    if not date and "date" in string.Template(text).get_identifiers():
        raise ConfigError(f"config.agent.system_prompt_file: {file} has $date; give the day as agent.date")
    if wire.function and "tools" in string.Template(text).get_identifiers():
        raise ConfigError(
            f"config.agent.system_prompt_file: {file} has $tools, but with data.call_format={call_format} the "
            "tools are listed after the template's words; take it out"
        )
    return _filled("system_prompt_file", file, text, values).strip() or None


def template(key: str, path: str, built_in: str, names: Sequence[str] = ()) -> str:
    """The template in the file `path` that config.agent.`key` names, "" for the built-in one. It may hold $question
    and $`names`; raises ConfigError where it cannot be read or holds another one, or not all of `names`."""
    if not path:
        return built_in
    text = _read(key, Path(path)).strip()
    _filled(key, Path(path), text, {name: "" for name in ("question", *names)})
    missing = [name for name in names if name not in string.Template(text).get_identifiers()]
    if missing:
        raise ConfigError(f"config.agent.{key}: {path} has no ${missing[0]}; say where it goes")
    return text


def fill(text: str, **values: str) -> str:
    """A template of `template` with $question and what else it has; "" for what is not given."""
    return string.Template(text).substitute({"question": "", "failures": "", **values})


def _read(key: str, file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"config.agent.{key}: cannot read {file} ({why})") from None


def _filled(key: str, file: Path, text: str, values: Mapping[str, str]) -> str:
    try:
        return string.Template(text).substitute(values)
    except (KeyError, ValueError) as error:
        known = f" other than {', '.join(f'${name}' for name in values)}" if values else ""
        raise ConfigError(
            f"config.agent.{key}: {file} has a placeholder{known}: {error}; write $$ for a dollar sign"
        ) from None
