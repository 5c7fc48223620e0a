"""The tools of the servers that tools.mcp names, for build.py; `mcp` is imported only where there are any.

What a server lists is kept in the record of a run (tools.record), as the result of a call "tools/list", so that the run
can be replayed where the server is not.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Sequence

from mirothinker_jax.config import ToolsConfig, check
from mirothinker_jax.tools.mcp_entry import McpEntry, parse_entry
from mirothinker_jax.tools.mcp_listing import check_names, tool_specs
from mirothinker_jax.tools.recording import Record
from mirothinker_jax.tools.replay import Recorded, Replay
from mirothinker_jax.tools.spec import Tool, ToolCall, ToolResult


def check_servers(settings: ToolsConfig) -> list[McpEntry]:
    """The entries, checked as far as that goes without starting anything.

    Raises:
      ConfigError: an entry cannot be read, needs a variable that is not set, or names a program that is not there.
    """
    entries = [parse_entry(written) for written in settings.mcp]
    if entries:
        check(
            importlib.util.find_spec("mcp") is not None,
            "tools.mcp needs the package mcp: pip install 'mirothinker-jax[mcp]'",
        )
    for entry in entries:
        path = entry.expand().get("PATH") if entry.command else None
        check(
            not entry.command or shutil.which(entry.command[0], path=path) is not None,
            f"tools.mcp: there is no program {entry.command[0] if entry.command else ''}; install it or give its path",
        )
    return entries


def mcp_tools(settings: ToolsConfig, ours: Sequence[Tool]) -> list[Tool]:
    """The servers' tools, in the order of the entries; each server is started once to list them.

    Raises:
      ConfigError: as `check_servers`; a server cannot be started or lists nothing that can be used; two tools have one
        name, `ours` among them.
    """
    entries = check_servers(settings)
    if not entries:
        return []
    from mirothinker_jax.tools.mcp_client import McpServer, McpTool, list_servers

    listings = list_servers(entries)
    tools: list[Tool] = []
    for entry, listing in zip(entries, listings, strict=True):
        server = McpServer(entry)
        tools += [McpTool(spec, server, settings.refuse) for spec in tool_specs(entry, listing)]
    check_names([tool.spec for tool in (*ours, *tools)])
    if settings.record:
        record = Record(settings.record)
        for entry, listing in zip(entries, listings, strict=True):
            record.append(_listing_call(entry), "", ToolResult(listing))
        record.close()
    return tools


def recorded_tools(settings: ToolsConfig) -> list[Tool]:
    """The same of a run that is replayed. Raises ConfigError where the record lacks a server's list."""
    if not settings.mcp:
        return []
    replay = Replay(settings.replay)
    tools: list[Tool] = []
    for entry in map(parse_entry, settings.mcp):
        listing = replay.result(_listing_call(entry), "")
        check(
            listing is not None,
            f"tools.mcp: {entry.label} is not in the record {settings.replay}; leave it out",
        )
        assert listing is not None
        tools += map(Recorded, tool_specs(entry, listing.text))
    replay.close()
    return tools


def _listing_call(entry: McpEntry) -> ToolCall:
    return ToolCall(entry.written, "tools/list")
