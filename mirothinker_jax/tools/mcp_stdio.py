"""A server as a process of its own, spoken to over its standard input and output, a line of JSON a message.

The `mcp` package brings such a transport; this one takes its place because that one keeps a line of any length, takes
up to four seconds to end a server, and can leave one behind when the event loop ends first. A line that is too long, or
no JSON, becomes an error for the call that it answers. A server that says much and answers nothing is ended. What it
writes to standard error is kept to its last words, for a message when it does not start.

Not killed with a run that is itself killed by SIGKILL: then its standard input closes, which tells a server to end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import re
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import anyio
import mcp_types
from mcp.shared.message import SessionMessage
from mcp_types import INTERNAL_ERROR, PARSE_ERROR, ErrorData, JSONRPCError, JSONRPCResponse

if TYPE_CHECKING:  # not public
    from mcp.client._transport import TransportStreams

logger = logging.getLogger(__name__)

MESSAGE_BYTES = 1 << 23  # of a message; a screenshot in base64 is smaller
_LINE_BYTES = 1 << 26  # of a line that is thrown away; a longer one ends the server
_UNASKED = 10_000  # messages in a row that answer nothing
_ENDS_BYTES = 512  # of both ends of a line that is thrown away, where its id is looked for
_LAST_WORDS_BYTES = 2_000
_GRACE_S = 1.0  # for a server to end by itself when its input closes
_ID = re.compile(rb'"id"\s*:\s*(\d{1,15})\b')
_Send = Callable[[SessionMessage | Exception], Any]


class _Babble(Exception):
    """The server says too much."""


class LastWords:
    """The end of what a server wrote to standard error."""

    def __init__(self) -> None:
        self._kept = b""

    def add(self, piece: bytes) -> None:
        self._kept = (self._kept + piece)[-_LAST_WORDS_BYTES:]

    @property
    def line(self) -> str:
        """The last line that is not empty, or ""."""
        lines = self._kept.decode("utf-8", "replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")


@contextlib.asynccontextmanager
async def run_server(
    command: Sequence[str], environment: Mapping[str, str], words: LastWords, ended: Callable[[], object]
) -> AsyncIterator[TransportStreams]:
    """Streams to and from a server that runs meanwhile. `ended` is called when its output ends.

    Raises:
      OSError: it cannot be started.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=dict(environment),
        start_new_session=True,
        limit=MESSAGE_BYTES,
    )
    try:
        into, read_stream = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        # Without bound: a server that does not read must not keep a call from being cancelled.
        write_stream, out_of = anyio.create_memory_object_stream[SessionMessage](math.inf)

        async def read() -> None:
            assert process.stdout
            async with into:
                try:
                    await _read_messages(process.stdout, into.send)
                except _Babble as error:
                    logger.warning("the MCP server %s sent %s; it is ended", command[0], error)
                except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                    pass  # nobody listens any more
            ended()
            _kill(process)

        async def write() -> None:
            assert process.stdin
            with contextlib.suppress(OSError):
                async with out_of:
                    async for message in out_of:
                        text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
                        process.stdin.write(text.encode("utf-8", "replace") + b"\n")
                        await process.stdin.drain()

        async def listen() -> None:
            assert process.stderr
            while piece := await process.stderr.read(1 << 16):
                words.add(piece)

        async with anyio.create_task_group() as tasks, read_stream, write_stream:
            for task in (read, write, listen):
                tasks.start_soon(task)
            try:
                yield read_stream, write_stream
            finally:
                assert process.stdin
                process.stdin.close()
                await _wait(process)
                _kill(process)
                await _wait(process)
                tasks.cancel_scope.cancel()
    finally:
        _kill(process)  # at once, also where the event loop is about to end
        # Nothing public closes the pipes where their ends were not read.
        process._transport.close()  # pyright: ignore[reportAttributeAccessIssue]


async def _wait(process: asyncio.subprocess.Process) -> None:
    with anyio.move_on_after(_GRACE_S, shield=True):
        await process.wait()


def _kill(process: asyncio.subprocess.Process) -> None:
    """Ends it and what it started, also where it has ended and its children have not."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


async def _read_messages(stdout: asyncio.StreamReader, send: _Send) -> None:
    """Until the output ends. Raises _Babble where it says too much that answers nothing."""
    unasked = 0
    while not stdout.at_eof():
        message, is_answer = await _read_message(stdout)
        unasked = 0 if is_answer else unasked + 1
        if unasked > _UNASKED:
            raise _Babble(f"{_UNASKED:,} messages in a row that answer nothing")
        if message is not None:
            await send(SessionMessage(message))


async def _read_message(stdout: asyncio.StreamReader) -> tuple[mcp_types.JSONRPCMessage | None, bool]:
    """The next message, if the next line holds one, and whether it answers a call."""
    try:
        line = await stdout.readuntil(b"\n")
    except asyncio.IncompleteReadError:
        return None, False
    except asyncio.LimitOverrunError as error:
        head, tail = await _skip_line(stdout, error.consumed)
        return _error_instead(
            head, tail, INTERNAL_ERROR, f"its answer is longer than {MESSAGE_BYTES:,} bytes"
        )
    try:
        message = mcp_types.jsonrpc_message_adapter.validate_json(line, by_name=False)
    except ValueError:
        return _error_instead(line[:_ENDS_BYTES], line[-_ENDS_BYTES:], PARSE_ERROR, "")
    return message, isinstance(message, JSONRPCResponse | JSONRPCError)


async def _skip_line(stdout: asyncio.StreamReader, available: int) -> tuple[bytes, bytes]:
    """Both ends of the line. Raises _Babble where it does not end."""
    head, tail, length = b"", b"", 0
    while length <= _LINE_BYTES:
        piece = await stdout.readexactly(available)
        head, tail, length = head or piece[:_ENDS_BYTES], (tail + piece)[-_ENDS_BYTES:], length + len(piece)
        try:
            piece = await stdout.readuntil(b"\n")
        except asyncio.LimitOverrunError as error:
            available = error.consumed
            continue
        except asyncio.IncompleteReadError:
            piece = b""
        return head, (tail + piece)[-_ENDS_BYTES:]
    raise _Babble(f"a line of more than {_LINE_BYTES:,} bytes")


def _error_instead(head: bytes, tail: bytes, code: int, reason: str) -> tuple[JSONRPCError | None, bool]:
    """The error for the call whose id stands at either end of a line: there it is where the result is in between."""
    found = _ID.search(head) or _ID.search(tail)
    if found is None:
        return None, False
    error = ErrorData(code=code, message=reason)
    return JSONRPCError(jsonrpc="2.0", id=int(found[1]), error=error), True
