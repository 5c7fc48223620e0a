"""Every call's result in a file (tools.record); replay.py answers calls from it. checked_lines.py says what the lines
are.

A call is found by its request id, server, tool and arguments as the model wrote them; of a call recorded twice, as when
an episode was run again, the last counts.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from mirothinker_jax import checked_lines
from mirothinker_jax.config_tree import ConfigError
from mirothinker_jax.tools.spec import ToolCall, ToolResult

KEY = ("request", "server", "tool", "arguments")


class Record:
    """Appends. The file is opened when it is needed, also after `close`."""

    def __init__(self, path: str):
        self._path = Path(path)
        self._file: io.FileIO | None = None

    def append(self, call: ToolCall, request_id: str, result: ToolResult) -> None:
        """Writes one line. Raises OSError where it cannot (a full disk), and then leaves no part of it."""
        key = dict(zip(KEY, call_key(call, request_id), strict=True))
        checked_lines.append(self.open(), key | vars(result))

    def open(self) -> io.FileIO:
        """The file, without half a line at its end. Raises ConfigError where it cannot be written."""
        if self._file is None:
            try:
                self._file = checked_lines.open_for_append(self._path)
            except checked_lines.BusyError:
                raise ConfigError(
                    f"tools.record is {self._path}, to which another process is writing; name another file"
                ) from None
            except OSError as error:
                raise ConfigError(
                    f"tools.record is {self._path}, which cannot be written ({error.strerror}); name another file"
                ) from None
        return self._file

    def close(self) -> None:
        if self._file is not None:
            checked_lines.close(self._file)
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
