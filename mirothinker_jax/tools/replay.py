"""Calls answered from a record (tools.replay) instead of made; recording.py says what a record is."""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from mirothinker_jax.checked_lines import read_lines
from mirothinker_jax.config_tree import ConfigError, check
from mirothinker_jax.tools.recording import KEY, call_key
from mirothinker_jax.tools.spec import Failure, ToolCall, ToolError, ToolResult, ToolSpec

_SHOWN_CHARS = 200  # of the arguments of a call that is not on record


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
        place = self._places.get(_digest(call_key(call, request_id)))
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
        shown = str(call_key(call, request_id)[3])[:_SHOWN_CHARS]
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
    for number, start, text in read_lines(path):
        if text is None:
            raise ConfigError(
                f"tools.replay: {path}:{number}: the line does not fit its checksum: it was damaged or changed; "
                "delete the line and its call counts as not recorded"
            )
        said = json.loads(text)
        yield _digest([said[name] for name in KEY]), (start, len(text))


def _digest(key: list[Any]) -> bytes:
    return hashlib.blake2b(json.dumps(key, sort_keys=True).encode(), digest_size=16).digest()
