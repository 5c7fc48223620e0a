"""An entry of tools.mcp: how a server is reached, what it is called, and which of its tools the model sees.

    npx -y @modelcontextprotocol/server-filesystem /data #read_file #list_directory
    github: GITHUB_TOKEN=$GITHUB_TOKEN github-mcp-server stdio
    https://example.com/mcp Authorization="Bearer $EXAMPLE_KEY"

Words are split as a shell splits them; nothing else of a shell is there. Words at the end that begin with # name tools;
#a,b means the same, but a command line of ours splits a list at its commas. A $NAME in a variable or header is read
from the environment when the server is started, so that no key stands in a config or a run's folder. In a command's
arguments it is not: every user of the machine can read those.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mirothinker_jax.config_tree import ConfigError, check

_LABEL_CHARS = 60
_NAME = re.compile(r"[\w.-]{1,64}:", re.ASCII)
_URL = re.compile(r"https?://[^\s/]+", re.IGNORECASE)
_ASSIGNMENT = re.compile(r"([A-Za-z_][\w-]*)=(.*)", re.ASCII | re.DOTALL)
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})", re.ASCII)


@dataclass(frozen=True)
class McpEntry:
    """`written` is the entry as the config has it. Either `command` or `url` is empty."""

    written: str
    name: str = ""  # of the server, for the model; "": as it calls itself
    command: tuple[str, ...] = ()
    url: str = ""
    values: Mapping[str, str] = field(default_factory=dict)  # variables of a command, headers of a URL
    tools: tuple[str, ...] = ()  # that the model sees; (): all

    @property
    def label(self) -> str:
        """What messages call the server before it has said its name."""
        return self.name or self.url or shlex.join(self.command)[:_LABEL_CHARS]

    def expand(self) -> dict[str, str]:
        """The variables or headers, with the environment's values. Raises ConfigError for one that is not set."""

        def value(found: re.Match[str]) -> str:
            name = found[1] or found[2]
            check(
                name in os.environ, f"tools.mcp: {self.label} needs ${name}, which is not set; export {name}"
            )
            return os.environ[name]

        return {name: _VARIABLE.sub(value, text) for name, text in self.values.items()}


def parse_entry(written: str) -> McpEntry:
    """Raises ConfigError for what is no entry.

    >>> parse_entry("files: KEY=$KEY serve --dir '/my data' #read #list").command
    ('serve', '--dir', '/my data')
    """
    try:
        words = shlex.split(written)
    except ValueError as error:
        raise ConfigError(f"tools.mcp holds {written!r}: {str(error).lower()}") from None
    name = ""
    tools: tuple[str, ...] = ()
    if words and _NAME.fullmatch(words[0]):
        name = words.pop(0)[:-1]
    while words and words[-1].startswith("#"):
        named = tuple(tool for tool in words.pop()[1:].split(",") if tool)
        check(bool(named), f"tools.mcp holds {written!r}, which names no tool after #; write #TOOL #TOOL")
        tools = named + tools
    if words and _URL.match(words[0]):
        return _parse_url(written, name, words, tools)
    values = {}
    while words and (found := _ASSIGNMENT.fullmatch(words[0])):
        values[found[1]] = found[2]
        words.pop(0)
    check(
        bool(words),
        f"tools.mcp holds {written!r}, which is no command and no address; write COMMAND or https://…",
    )
    return McpEntry(written, name, command=tuple(words), values=values, tools=tools)


def _parse_url(written: str, name: str, words: Sequence[str], tools: tuple[str, ...]) -> McpEntry:
    url, *rest = words
    check("#" not in url, f"tools.mcp holds {written!r}; write a space before #")
    headers = {}
    for word in rest:
        found = _ASSIGNMENT.fullmatch(word)
        check(found is not None, f"tools.mcp holds {written!r}; after an address come headers, as NAME=VALUE")
        assert found is not None
        headers[found[1]] = found[2]
    return McpEntry(written, name, url=url, values=headers, tools=tools)
