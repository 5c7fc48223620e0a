"""Every call's result in a file (tools.record); replay.py answers calls from it.

A line is the CRC-32 of its JSON in eight hex digits, a space, and the JSON: `cut -c10- FILE | jq` reads it. A killed
process leaves at most half a line, which is dropped. A call is found by its request id, server, tool and arguments as
the model wrote them; of a call recorded twice, as when an episode was run again, the last counts. Two processes cannot
append to one file. Nothing is synchronised to disk before the end: a machine that stops may lose the last seconds.
"""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import zlib
from pathlib import Path
from typing import Any

from mirothinker_jax.config_tree import ConfigError
from mirothinker_jax.tools.spec import ToolCall, ToolResult

KEY = ("request", "server", "tool", "arguments")
CRC_CHARS = 9  # eight digits and the space


class Record:
    """Appends. The file is opened when it is needed, also after `close`."""

    def __init__(self, path: str):
        self._path = Path(path)
        self._file: io.FileIO | None = None

    def append(self, call: ToolCall, request_id: str, result: ToolResult) -> None:
        """Writes one line. Raises OSError where it cannot (a full disk), and then leaves no part of it."""
        file = self.open()
        key = call_key(call, request_id)
        text = json.dumps(dict(zip(KEY, key, strict=True)) | vars(result)).encode()
        line = b"%08x %s\n" % (zlib.crc32(text), text)
        end = os.fstat(file.fileno()).st_size
        try:
            if file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            file.truncate(end)
            raise OSError(error.errno, error.strerror, str(self._path)) from None

    def open(self) -> io.FileIO:
        """The file, without half a line at its end. Raises ConfigError where it cannot be written."""
        if self._file is not None:
            return self._file
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            file = io.FileIO(self._path, "a+")
        except OSError as error:
            raise ConfigError(
                f"tools.record is {self._path}, which cannot be written ({error.strerror}); name another file"
            ) from None
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            raise ConfigError(
                f"tools.record is {self._path}, to which another process is writing; name another file"
            ) from None
        file.truncate(_whole_lines_end(file))
        self._file = file
        return file

    def close(self) -> None:
        if self._file is not None:
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None


def call_key(call: ToolCall, request_id: str) -> list[Any]:
    """The values of KEY, as JSON reads them back."""
    try:
        arguments = json.loads(json.dumps(call.arguments, default=repr))
    except (
        TypeError,
        ValueError,
        RecursionError,
    ):  # not from a model's JSON: the executor refuses such a call
        arguments = None
    return [request_id, call.server, call.tool, arguments]


def _whole_lines_end(file: io.FileIO) -> int:
    """Bytes up to the last line break."""
    end = file.seek(0, os.SEEK_END)
    while end:
        begin = max(0, end - (1 << 16))
        file.seek(begin)
        block = file.read(end - begin) or b""
        if (at := block.rfind(b"\n")) >= 0:
            return begin + at + 1
        end = begin
    return 0
