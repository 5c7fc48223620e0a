"""Every call's result in a file (tools.record), and calls answered from it (tools.replay).

A line is the CRC-32 of its JSON in eight hex digits, a space, and the JSON: `cut -c10- FILE | jq` reads it. A killed
process leaves at most half a line, which is dropped. A call is found by its request id, server, tool and arguments as
the model wrote them; of a call recorded twice, as when an episode was run again, the last counts. Two processes cannot
append to one file. Nothing is synchronised to disk before the end: a machine that stops may lose the last seconds.
"""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import glob
import hashlib
import io
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from mirothinker_jax.config_tree import ConfigError, check
from mirothinker_jax.tools.spec import Failure, ToolCall, ToolError, ToolResult, ToolSpec

_KEY = ("request", "server", "tool", "arguments")
_CRC_CHARS = 9  # eight digits and the space
_SHOWN_CHARS = 200  # of the arguments of a call that is not on record


class Record:
    """Appends. The file is opened when it is needed, also after `close`."""

    def __init__(self, path: str):
        self._path = Path(path)
        self._file: io.FileIO | None = None

    def append(self, call: ToolCall, request_id: str, result: ToolResult) -> None:
        """Writes one line. Raises OSError where it cannot (a full disk), and then leaves no part of it."""
        file = self.open()
        key = _readable_key(call, request_id)
        text = json.dumps(dict(zip(_KEY, key, strict=True)) | vars(result)).encode()
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


class Replay:
    """Results of a recorded run by call. It keeps where each one is; the texts stay on disk."""

    def __init__(self, path: str):
        """Reads the file, and the parts FILE.INDEX-of-COUNT that several processes left.

        Raises:
          ConfigError: there is no such file, or a line of it is damaged.
        """
        self._path = path
        self._parts = parts(path)
        self._files: dict[int, BinaryIO] = {}
        self._places: dict[bytes, tuple[int, int, int]] = {}
        for number, part in enumerate(self._parts):
            self._places |= {key: (number, *place) for key, place in _places(part)}

    def result(self, call: ToolCall, request_id: str) -> ToolResult | None:
        """What was recorded; None: no such call was."""
        place = self._places.get(_digest(_readable_key(call, request_id)))
        if place is None:
            return None
        number, start, length = place
        file = self._files.get(number) or self._parts[number].open("rb")
        self._files[number] = file
        said = json.loads(os.pread(file.fileno(), length, start))
        fields = {field.name: said[field.name] for field in dataclasses.fields(ToolResult)}
        result = ToolResult(**fields)
        return dataclasses.replace(result, failure=result.failure and Failure(result.failure))

    def missing(self, call: ToolCall, request_id: str) -> str:
        """The line about a call that is not on record."""
        shown = str(_readable_key(call, request_id)[3])[:_SHOWN_CHARS]
        return f"not on record in {self._path}: call {request_id} of {call.server}/{call.tool} with {shown}"

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()


class Recorded:
    """A tool of a replayed run: the model sees it, and nothing runs."""

    def __init__(self, spec: ToolSpec):
        self.spec = spec

    async def run(self, arguments: Mapping[str, Any], request_id: str) -> str:
        raise ToolError(
            Failure.NETWORK, f"{self.spec.name} is on record alone (tools.replay); nothing is called"
        )


def parts(path: str) -> list[Path]:
    """The files of a record: itself, or one of each process that wrote it. Raises ConfigError where there is none."""
    whole = Path(path)
    found = [whole] if whole.is_file() else []
    found += sorted(whole.parent.glob(f"{glob.escape(whole.stem)}.*-of-*{glob.escape(whole.suffix)}"))
    check(bool(found), f"tools.replay is {path!r}, and there is no such file; tools.record writes one")
    return found


def _places(path: Path) -> Iterator[tuple[bytes, tuple[int, int]]]:
    """(key, (where its JSON starts, bytes of it)) of each whole line."""
    start = 0
    with path.open("rb") as file:
        for count, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            text = line[_CRC_CHARS:-1]
            check(
                line[:_CRC_CHARS] == b"%08x " % zlib.crc32(text),
                f"tools.replay: {path}:{count}: the line does not fit its checksum: it was damaged or changed; "
                "delete the line and its call counts as not recorded",
            )
            said = json.loads(text)
            key = [said[name] for name in _KEY]
            yield _digest(key), (start + _CRC_CHARS, len(text))
            start += len(line)


def _readable_key(call: ToolCall, request_id: str) -> list[Any]:
    try:
        arguments = json.loads(json.dumps(call.arguments, default=repr))
    except (
        TypeError,
        ValueError,
        RecursionError,
    ):  # not from a model's JSON: the executor refuses such a call
        arguments = None
    return [request_id, call.server, call.tool, arguments]


def _digest(key: list[Any]) -> bytes:
    return hashlib.blake2b(json.dumps(key, sort_keys=True).encode(), digest_size=16).digest()


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
