"""What a tool is, what a call of one is, and how both look on the wire.

A failed call is a value (`ToolResult.failure`), never an exception that ends an episode: the model reads
what went wrong and goes on.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

# In the order in which a call uses them; data/tokenizer.py makes each of them one token.
CALL_TAGS = (
    "<use_mcp_tool>",
    "</use_mcp_tool>",
    "<server_name>",
    "</server_name>",
    "<tool_name>",
    "</tool_name>",
    "<arguments>",
    "</arguments>",
)
# The "<" of a tag that a parser of turns would take for its own.
_TAG = re.compile(r"<(?=/?(?:think|use_mcp_tool|server_name|tool_name|arguments)>)")


@dataclass(frozen=True)
class ToolSpec:
    """A tool as the model sees it. `parameters` is a JSON schema of an object."""

    server: str
    name: str
    description: str
    parameters: Mapping[str, Any]
    # The same arguments give the same answer and change nothing: a result may be remembered, a call made again.
    repeatable: bool = True
    shared: bool = True  # and the answer is the same in every episode
    concurrent: bool = True  # calls of one turn may run at the same time
    aliases: tuple[str, ...] = ()  # other names that models call the tool by
    argument_aliases: Mapping[str, str] = field(default_factory=dict)  # usual wrong name → right name
    # Arguments go to the tool unchecked: its schema is foreign; a pattern may take for ever, a $ref reach out.
    checks_arguments: bool = False


def object_schema(properties: Mapping[str, Any], required: Sequence[str]) -> dict[str, Any]:
    """The JSON schema of an object that has these properties and no others."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(required),
        "additionalProperties": False,
    }


@dataclass(frozen=True)
class ToolCall:
    server: str
    tool: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


class Failure(enum.StrEnum):
    """Why a call gave no result. Infrastructure is what a run brings: the search service and its quota, the sandbox
    host, the proxy. The tool decides, as it knows whose address it asked: a page that does not answer is something
    the model learns, whether it made the address up or the host is down.
    """

    UNKNOWN_TOOL = "unknown_tool"
    INVALID_ARGUMENTS = "invalid_arguments"
    TOOL_ERROR = "tool_error"  # the tool ran and says no: a dead link, an exception in the user's code
    NO_RESULTS = "no_results"  # a search that found nothing
    UNREACHABLE = "unreachable"  # a host that the model named: unknown, refusing, too slow, 5xx, 429
    DEADLINE = "deadline"  # a service of ours took too long
    NETWORK = "network"  # a service of ours refuses or breaks

    @property
    def infrastructure(self) -> bool:
        """Whether a service of our own failed."""
        return self in (Failure.DEADLINE, Failure.NETWORK)

    @property
    def answered(self) -> bool:
        """Whether the services behind the tool did their work."""
        return self in (Failure.TOOL_ERROR, Failure.NO_RESULTS)


@dataclass(frozen=True)
class ToolResult:
    """`text` is what the model reads, also when the call failed. It is untrusted: encode it as plain text."""

    text: str
    failure: Failure | None = None
    seconds: float = 0.0
    truncated: bool = False
    cached: bool = False


class ToolError(Exception):
    """Raised inside a tool; the executor turns it into a ToolResult."""

    def __init__(self, failure: Failure, message: str):
        super().__init__(message)
        self.failure = Failure(failure)  # a user's tool may give anything


class Tool(Protocol):
    spec: ToolSpec

    async def run(self, arguments: Mapping[str, Any], request_id: str) -> str:
        """The result text. `request_id` names the call for logs and servers ("episode:turn.call").

        Raises ToolError; any other exception is reported to the model as a tool error.
        """
        ...


def render_call(call: ToolCall) -> str:
    """The call in the wire format that the released MiroThinker checkpoints speak, to the newline. A tag inside an
    argument is written as JSON's \\u003c, so that it is the argument's and not the call's.

    >>> print(render_call(ToolCall("s", "t", {"q": "x"})))
    <use_mcp_tool>
    <server_name>s</server_name>
    <tool_name>t</tool_name>
    <arguments>
    {"q": "x"}
    </arguments>
    </use_mcp_tool>
    """
    arguments = _TAG.sub(r"\\u003c", json.dumps(dict(call.arguments), ensure_ascii=False))
    return (
        f"<use_mcp_tool>\n<server_name>{call.server}</server_name>\n<tool_name>{call.tool}</tool_name>\n"
        f"<arguments>\n{arguments}\n</arguments>\n</use_mcp_tool>"
    )


def render_calls(calls: Iterable[ToolCall], after: str | None = None) -> str:
    """A turn's calls as they follow `after`, what the turn says before them; None where it says something. Two newlines
    stand before each call, but not where a turn begins, nor a second time."""
    text = "\n\n".join(map(render_call, calls))
    apart = after is None or (after and not after.endswith("\n\n"))
    return f"\n\n{text}" if text and apart else text
