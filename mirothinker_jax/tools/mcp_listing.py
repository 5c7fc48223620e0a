"""What a server of MCP lists, as specs of tools; `mcp` itself is not needed for that.

A list is JSON, {"name": the server's, "tools": [{"name", "description", "parameters", "read_only"}]}, as
McpServer.listing writes it and a record keeps it. It is foreign: names that no call can be written with, schemas that
are none and lists without end are refused by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from mirothinker_jax.config_tree import ConfigError, check
from mirothinker_jax.tools.mcp_entry import McpEntry
from mirothinker_jax.tools.spec import ToolSpec

MOST_TOOLS = 200  # of a server
_DESCRIPTION_CHARS = 4_000
_SCHEMA_CHARS = 20_000
_NAME = re.compile(r"[A-Za-z0-9_./-]{1,128}", re.ASCII)


def tool_specs(entry: McpEntry, listing: str) -> list[ToolSpec]:
    """The tools that the entry asks for, of the server's `listing`.

    Raises:
      ConfigError: one of them is not there or cannot be used; there are none, or too many.
    """
    found = json.loads(listing)
    check(
        len(found["tools"]) <= MOST_TOOLS or bool(entry.tools),
        f"tools.mcp: {entry.label} lists more than {MOST_TOOLS} tools; choose some: {entry.label} #TOOL #TOOL",
    )
    server, tools = found["name"] or "mcp", {tool["name"]: tool for tool in found["tools"]}
    missing = [name for name in entry.tools if name not in tools]
    check(
        not missing,
        f"tools.mcp: {entry.label} has no tool {', '.join(missing)}; its tools are {', '.join(tools)}"[:600],
    )
    chosen = [tools[name] for name in entry.tools] if entry.tools else list(tools.values())
    check(bool(chosen), f"tools.mcp: {entry.label} lists no tools; leave it out")
    return [_spec(entry, server, tool) for tool in chosen]


def check_names(specs: Iterable[ToolSpec]) -> None:
    """Raises ConfigError for two tools of one name on servers of one name."""
    seen = set()
    for spec in specs:
        key = (spec.server, spec.name)
        check(
            key not in seen,
            f"tools.mcp: two tools are called {spec.server}/{spec.name}; give one server another name, as in "
            "other: COMMAND",
        )
        seen.add(key)


def _spec(entry: McpEntry, server: str, tool: Mapping[str, Any]) -> ToolSpec:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import validator_for

    name, schema, description = tool["name"], tool["parameters"], tool["description"]
    leave_out = f"choose others: {entry.label} #TOOL #TOOL"
    check(
        _NAME.fullmatch(name) is not None,
        f"tools.mcp: {entry.label} has a tool {name[:80]!r}, a name that no call can be written with; {leave_out}",
    )
    length = len(json.dumps(schema))
    check(
        length <= _SCHEMA_CHARS,
        f"tools.mcp: the schema of {entry.label}'s {name} takes {length:,} characters; {leave_out}",
    )
    try:
        validator_for(schema, Draft202012Validator).check_schema(schema)  # by the version that it names
    except (SchemaError, RecursionError, TypeError) as error:
        reason = getattr(error, "message", "it is nested too deep")
        raise ConfigError(
            f"tools.mcp: the schema of {entry.label}'s {name} is none: {reason[:200]}; {leave_out}"
        ) from None
    if len(description) > _DESCRIPTION_CHARS:
        description = f"{description[:_DESCRIPTION_CHARS]}…"
    read_only = tool["read_only"]
    return ToolSpec(
        server, name, description, schema, repeatable=read_only, concurrent=read_only, checks_arguments=True
    )
