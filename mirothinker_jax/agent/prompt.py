"""The system prompt: a template file, because a released checkpoint wants the words it was trained with.

The template is filled by `string.Template`: in "mcp" `$tools` becomes the list of tools with their JSON schemas. In
"hermes" the chat lists the tools after the template's words, where Qwen's own chat template puts them.
"""

from __future__ import annotations

import json
import string
from collections.abc import Sequence
from pathlib import Path

from mirothinker_jax.agent.wire.formats import WIRES
from mirothinker_jax.config import ConfigError
from mirothinker_jax.tools.spec import ToolSpec

FINAL_REQUEST = "No calls are left. Answer now in \\boxed{}."


def describe(specs: Sequence[ToolSpec]) -> str:
    """The tools as the model reads them: server, tool, what it does, JSON schema of its arguments."""
    return "\n\n".join(
        f"Server: {s.server}\nTool: {s.name}\n{s.description}\nArguments: {json.dumps(dict(s.parameters))}"
        for s in specs
    )


def system_prompt(path: str, specs: Sequence[ToolSpec], call_format: str = "mcp") -> str | None:
    """The filled template at `path` ("" for the built-in one); None where the template is empty.

    Raises ConfigError for a missing file or a $placeholder that the call format does not have.
    """
    wire = WIRES[call_format]
    file = Path(path) if path else wire.prompt_file
    try:
        template = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"config.agent.system_prompt_file: cannot read {file} ({error.strerror})") from None
    values = {} if wire.function else {"tools": describe(specs)}
    try:
        filled = string.Template(template).substitute(values).strip()
    except (KeyError, ValueError) as error:
        if wire.function and error.args == ("tools",):
            raise ConfigError(
                f"config.agent.system_prompt_file: {file} has $tools, but with data.call_format={call_format} the "
                "tools are listed after the template's words; take it out"
            ) from None
        known = "" if wire.function else " other than $tools"
        raise ConfigError(
            f"config.agent.system_prompt_file: {file} has a placeholder{known}: {error}; write $$ for a dollar sign"
        ) from None
    return filled or None
