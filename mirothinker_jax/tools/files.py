"""The files tools: the model lists, reads and writes files of the task's folder, where the task's attachments lie.

Documents (PDF, Word, Excel, PowerPoint, HTML, tables) are read by documents.py, in a process of their own. Pictures and
sound are not read. What is written here can be uploaded into a sandbox, and nothing else sees it.
"""

from __future__ import annotations

import asyncio
import mimetypes
from collections.abc import Mapping, Sequence
from typing import Any

from mirothinker_jax.config import ToolsConfig
from mirothinker_jax.tools.documents import Source
from mirothinker_jax.tools.page_kind import Unreadable
from mirothinker_jax.tools.reading_pool import ReadersBroken, ReadingPool
from mirothinker_jax.tools.spec import Failure, ToolError, ToolSpec, object_schema
from mirothinker_jax.tools.workspace import PathRefused, Workspace

TEXT_CHARS = 100_000  # of a result
_WRITTEN_CHARS = 1 << 20
_READING_S = 20.0  # most to read a document: others wait for the process
_GRACE_S = 1.0
_PATH = {"type": "string", "minLength": 1, "description": "path of the file, as list_files shows it"}


def _spec(
    name: str, description: str, required: Sequence[str], properties: dict[str, Any], **more: Any
) -> ToolSpec:
    return ToolSpec(
        server="tool-reading",
        name=name,
        description=description,
        parameters=object_schema(properties, required),
        repeatable=name != "write_file",
        shared=False,  # each episode has a folder of its own
        concurrent=name != "write_file",
        **more,
    )


_PATH_ALIASES = {"uri": "path", "file_path": "path", "local_file_path": "path", "filename": "path"}
SPECS = {
    spec.name: spec
    for spec in (
        _spec("list_files", "Lists the files of the task.", (), {}),
        _spec(
            "read_file",
            "Reads a file of the task: text, tables, PDF, Word, Excel, PowerPoint, HTML.",
            ("path",),
            {
                "path": _PATH,
                "first_line": {
                    "type": "integer",
                    "minimum": 1,
                    "default": 1,
                    "description": "line to begin with",
                },
                "lines": {"type": "integer", "minimum": 1, "description": "how many; all by default"},
            },
            aliases=("convert_to_markdown",),
            argument_aliases=_PATH_ALIASES,
        ),
        _spec(
            "write_file",
            "Writes a text file into the task's folder.",
            ("path", "content"),
            {
                "path": _PATH,
                "content": {"type": "string", "maxLength": _WRITTEN_CHARS, "description": "its text"},
            },
            argument_aliases={**_PATH_ALIASES, "text": "content"},
        ),
    )
}


class _FilesTool:
    """What the three have in common: the folders, which all of them may be told of."""

    def __init__(self, name: str, workspace: Workspace):
        self.spec = SPECS[name]
        self._workspace = workspace

    async def begin(self, episode: str, files: Sequence[str]) -> None:
        """Copies the task's files into its folder, as Workspace.begin."""
        await self._workspace.begin(episode, files)

    async def end(self, episode: str) -> None:
        """Removes the episode's folder."""
        await self._workspace.end(episode)

    async def aclose(self) -> None:
        """Removes all folders. The tool may be used again."""
        await self._workspace.aclose()


class ListFiles(_FilesTool):
    """list_files(): path and size of each."""

    def __init__(self, workspace: Workspace):
        super().__init__("list_files", workspace)

    async def run(self, arguments: Mapping[str, Any], request_id: str) -> str:
        """As spec.Tool."""
        paths = await asyncio.to_thread(self._workspace.paths, _episode(request_id))
        return "\n".join(f"{path} ({size:,} bytes)" for path, size in paths) or "(no files)"


class ReadFile(_FilesTool):
    """read_file(path, first_line, lines): the document's lines."""

    def __init__(self, workspace: Workspace, settings: ToolsConfig):
        super().__init__("read_file", workspace)
        self._file_bytes = settings.file_bytes
        self._seconds = max(settings.deadline_s - _GRACE_S, settings.deadline_s * 0.9)
        self._pool = ReadingPool()

    async def run(self, arguments: Mapping[str, Any], request_id: str) -> str:
        """As spec.Tool."""
        path = arguments["path"]
        try:
            body = await asyncio.to_thread(self._workspace.read, _episode(request_id), path, self._file_bytes)
            kind = mimetypes.guess_type(path, strict=False)[0] or ""
            page = await self._pool.find(Source(body, kind, path), "", 0, self._seconds, _READING_S)
        except PathRefused as error:
            raise ToolError(Failure.TOOL_ERROR, str(error)) from error
        except Unreadable as error:
            raise ToolError(Failure.TOOL_ERROR, f"cannot read {path}: {error}") from error
        except ReadersBroken as error:
            raise ToolError(Failure.NETWORK, str(error)) from error
        first = arguments.get("first_line", 1)
        if first > max(1, len(page.lines)):
            raise ToolError(Failure.TOOL_ERROR, f"{path} has {len(page.lines):,} lines")
        chosen = page.lines[first - 1 :][: arguments.get("lines")]
        head = f"{page.title}: lines {first:,}-{first - 1 + len(chosen):,} of {len(page.lines):,}"
        return "\n".join([head, *chosen])[:TEXT_CHARS]

    async def aclose(self) -> None:
        """Ends processes and removes all folders. The tool may be used again."""
        await self._pool.aclose()
        await super().aclose()


class WriteFile(_FilesTool):
    """write_file(path, content)."""

    def __init__(self, workspace: Workspace):
        super().__init__("write_file", workspace)

    async def run(self, arguments: Mapping[str, Any], request_id: str) -> str:
        """As spec.Tool."""
        data = arguments["content"].encode("utf-8", "replace")
        try:
            await asyncio.to_thread(self._workspace.write, _episode(request_id), arguments["path"], data)
        except PathRefused as error:
            raise ToolError(Failure.TOOL_ERROR, str(error)) from error
        return f"wrote {arguments['path']} ({len(data):,} bytes)"


def _episode(request_id: str) -> str:
    return request_id.rpartition(":")[0]
