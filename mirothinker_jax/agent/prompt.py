"""The system prompt: a template file, because a released checkpoint wants the words it was trained with.

The template is filled by `string.Template`: `$tools` becomes the list of tools with their JSON schemas.
"""

from __future__ import annotations

import json
import string
from collections.abc import Sequence
from pathlib import Path

from mirothinker_jax.config import ConfigError
from mirothinker_jax.tools.spec import ToolSpec

BUILT_IN = Path(__file__).parent / "system_prompt.txt"
FINAL_REQUEST = "No calls are left. Answer now in \\boxed{}."


def describe(specs: Sequence[ToolSpec]) -> str:
    """The tools as the model reads them: server, tool, what it does, JSON schema of its arguments."""
    return "\n\n".join(
        f"Server: {s.server}\nTool: {s.name}\n{s.description}\nArguments: {json.dumps(dict(s.parameters))}"
        for s in specs
    )


def system_prompt(path: str, specs: Sequence[ToolSpec]) -> str | None:
    """The filled template at `path` ("" for the built-in one); None where the template is empty.

    Raises ConfigError for a missing file or an unknown $placeholder.
    """
    file = Path(path) if path else BUILT_IN
    try:
        template = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"config.agent.system_prompt_file: cannot read {file} ({error.strerror})") from None
    try:
        filled = string.Template(template).substitute(tools=describe(specs)).strip()
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"config.agent.system_prompt_file: {file} has a placeholder other than $tools: {error}; "
            "write $$ for a dollar sign"
        ) from None
    return filled or None
