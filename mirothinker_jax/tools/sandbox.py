"""The sandbox tools: a model creates sandboxes, runs commands and Python in them, and brings files there.

Names and arguments are upstream's. A call that names no sandbox uses one of its episode's own that is made then. In a
sandbox, files stay from call to call, and so do the variables of Python code. Code has no network, wherever it runs:
a download is made by the tools' client, which knows what may be reached, and a file can be uploaded from the task's
folder alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import posixpath
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from mirothinker_jax.config import ToolsConfig
from mirothinker_jax.tools.sandbox_interface import (
    HOME,
    OUTPUT_CHARS,
    Execution,
    FileRefused,
    Sandbox,
    SandboxDied,
    SandboxFailed,
)
from mirothinker_jax.tools.sandbox_local import GRACE_S
from mirothinker_jax.tools.sandbox_pool import IDLE_S, SandboxPool
from mirothinker_jax.tools.spec import Failure, ToolError, ToolSpec, object_schema
from mirothinker_jax.tools.workspace import PathRefused, Workspace

if TYPE_CHECKING:  # only a run with tools pays for importing HTTP
    from mirothinker_jax.tools.client import WebClient

_LONGEST_IDLE_S = 86_400
_NAME_CHARS = 100


def _spec(
    name: str, description: str, required: Sequence[str], properties: dict[str, Any], **more: Any
) -> ToolSpec:
    return ToolSpec(
        server="tool-python",
        name=name,
        description=description,
        parameters=object_schema(properties, required),
        repeatable=False,
        concurrent=False,  # a later call may need the files of an earlier one
        **more,
    )


_ID = {"sandbox_id": {"type": "string", "minLength": 1, "description": "from create_sandbox"}}
_TARGET = {
    "type": "string",
    "default": HOME,
    "description": f"path in the sandbox: of the file, or of the folder for it; {HOME} by default",
}
SPECS = {
    spec.name: spec
    for spec in (
        _spec(
            "create_sandbox",
            "Creates a sandbox (Linux, without network) and returns its sandbox_id.",
            (),
            {
                "timeout": {
                    "type": "number",
                    "exclusiveMinimum": 0,
                    "maximum": _LONGEST_IDLE_S,
                    "default": IDLE_S,
                    "description": "seconds after which it may end when nobody uses it",
                }
            },
        ),
        _spec(
            "run_command",
            "Runs a shell command in a sandbox and returns what it prints.",
            ("command", "sandbox_id"),
            {"command": {"type": "string", "minLength": 1, "description": "the command"}, **_ID},
        ),
        _spec(
            "run_python_code",
            "Runs Python code in a sandbox and returns what it prints and the value of its last expression.",
            ("code_block", "sandbox_id"),
            {"code_block": {"type": "string", "minLength": 1, "description": "the code"}, **_ID},
            aliases=("python", "python_code"),
            argument_aliases={"code": "code_block"},
        ),
        _spec(
            "upload_file_from_local_to_sandbox",
            "Copies a file of the task's folder into a sandbox and returns its path there.",
            ("sandbox_id", "local_file_path"),
            {
                **_ID,
                "local_file_path": {
                    "type": "string",
                    "minLength": 1,
                    "description": "path in the task's folder",
                },
                "sandbox_file_path": _TARGET,
            },
        ),
        _spec(
            "download_file_from_internet_to_sandbox",
            "Downloads a file into a sandbox and returns its path there.",
            ("sandbox_id", "url"),
            {
                **_ID,
                "url": {"type": "string", "minLength": 1, "description": "address of the file"},
                "sandbox_file_path": _TARGET,
            },
        ),
    )
}


class _SandboxTool:
    """What the five have in common. They share a pool; each of them may be told when an episode ends."""

    def __init__(self, name: str, pool: SandboxPool, settings: ToolsConfig):
        self.spec = SPECS[name]
        self._pool = pool
        # Its own limit ends the code before the call's deadline does: a long run is the model's fault, and
        # it should see what was printed.
        self._timeout_s = max(settings.deadline_s - 2 * GRACE_S, settings.deadline_s / 2)

    async def begin(self, episode: str, files: Sequence[str]) -> None:
        """Nothing: sandboxes are made when they are used."""

    async def end(self, episode: str) -> None:
        """Ends the episode's sandboxes."""
        await self._pool.end(episode)

    async def aclose(self) -> None:
        """Ends all sandboxes. The tool may be used again."""
        await self._pool.aclose()

    @contextlib.asynccontextmanager
    async def _sandbox(self, arguments: Mapping[str, Any], request_id: str) -> AsyncIterator[Sandbox]:
        """The sandbox that a call means. What goes wrong with it becomes the call's result."""
        try:
            async with self._pool.use(_episode(request_id), arguments["sandbox_id"][:_NAME_CHARS]) as sandbox:
                yield sandbox
        except SandboxDied as error:
            raise ToolError(Failure.TOOL_ERROR, str(error)) from error
        except SandboxFailed as error:
            raise ToolError(Failure.NETWORK, str(error)) from error

    async def _write(self, sandbox: Sandbox, wanted: str, name: str, data: bytes) -> str:
        path = _target(wanted, name)
        try:
            await sandbox.files.write(path, data)
        except FileRefused as error:
            raise ToolError(Failure.TOOL_ERROR, str(error)) from error
        return f"{path} ({len(data):,} bytes)"


class CreateSandbox(_SandboxTool):
    """create_sandbox(timeout): the id of a new sandbox."""

    def __init__(self, pool: SandboxPool, settings: ToolsConfig):
        super().__init__("create_sandbox", pool, settings)

    async def run(self, arguments: Mapping[str, Any], request_id: str) -> str:
        """As spec.Tool."""
        # Named after the call: the same again when an episode is repeated, and never that of an earlier one.
        name = "sandbox-" + request_id.rpartition(":")[2].replace(".", "-")
        try:
            await self._pool.create(_episode(request_id), name, arguments.get("timeout", IDLE_S))
        except SandboxFailed as error:
            raise ToolError(Failure.NETWORK, str(error)) from error
        return f"sandbox_id: {name}"


class RunCommand(_SandboxTool):
    """run_command(command, sandbox_id): what it prints."""

    def __init__(self, pool: SandboxPool, settings: ToolsConfig):
        super().__init__("run_command", pool, settings)

    async def run(self, arguments: Mapping[str, Any], request_id: str) -> str:
        """As spec.Tool."""
        async with self._sandbox(arguments, request_id) as sandbox:
            execution = await sandbox.commands.run(arguments["command"], self._timeout_s)
        return _text(execution, "command", self._timeout_s)


class RunPython(_SandboxTool):
    """run_python_code(code_block, sandbox_id): what it prints and the value of its last expression."""

    def __init__(self, pool: SandboxPool, settings: ToolsConfig):
        super().__init__("run_python_code", pool, settings)

    async def run(self, arguments: Mapping[str, Any], request_id: str) -> str:
        """As spec.Tool."""
        async with self._sandbox(arguments, request_id) as sandbox:
            execution = await sandbox.run_code(arguments["code_block"], self._timeout_s)
        return _text(execution, "code", self._timeout_s)


class UploadFile(_SandboxTool):
    """upload_file_from_local_to_sandbox(sandbox_id, local_file_path, sandbox_file_path)."""

    def __init__(self, pool: SandboxPool, settings: ToolsConfig, workspace: Workspace):
        super().__init__("upload_file_from_local_to_sandbox", pool, settings)
        self._workspace, self._file_bytes = workspace, settings.file_bytes

    async def begin(self, episode: str, files: Sequence[str]) -> None:
        """Copies the task's files into its folder, as Workspace.begin."""
        await self._workspace.begin(episode, files)

    async def end(self, episode: str) -> None:
        """Ends the episode's sandboxes and removes its folder."""
        await super().end(episode)
        await self._workspace.end(episode)

    async def run(self, arguments: Mapping[str, Any], request_id: str) -> str:
        """As spec.Tool."""
        path = arguments["local_file_path"]
        try:
            data = await asyncio.to_thread(self._workspace.read, _episode(request_id), path, self._file_bytes)
        except PathRefused as error:
            raise ToolError(Failure.TOOL_ERROR, str(error)) from error
        async with self._sandbox(arguments, request_id) as sandbox:
            written = await self._write(sandbox, arguments.get("sandbox_file_path", HOME), path, data)
        return f"uploaded to {written}"

    async def aclose(self) -> None:
        """Ends all sandboxes and removes all folders. The tool may be used again."""
        await super().aclose()
        await self._workspace.aclose()


class DownloadFile(_SandboxTool):
    """download_file_from_internet_to_sandbox(sandbox_id, url, sandbox_file_path)."""

    def __init__(self, pool: SandboxPool, settings: ToolsConfig, client: WebClient):
        """`client` reads bodies up to one byte more than settings.file_bytes, to tell when a file is larger."""
        super().__init__("download_file_from_internet_to_sandbox", pool, settings)
        self._client, self._file_bytes = client, settings.file_bytes

    async def run(self, arguments: Mapping[str, Any], request_id: str) -> str:
        """As spec.Tool."""
        url = arguments["url"].strip()
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await self._client.fetch(url, request_id)
        except TimeoutError as error:
            message = f"{url} did not answer in {self._timeout_s:.3g} s"
            raise ToolError(Failure.UNREACHABLE, message) from error
        data = response.content
        if len(data) > self._file_bytes:
            message = f"the file is larger than {self._file_bytes:,} bytes (tools.file_bytes)"
            raise ToolError(Failure.TOOL_ERROR, message)
        name = unquote(urlsplit(url).path)
        async with self._sandbox(arguments, request_id) as sandbox:
            written = await self._write(sandbox, arguments.get("sandbox_file_path", HOME), name, data)
        return f"downloaded to {written}"

    async def aclose(self) -> None:
        """Ends all sandboxes and closes connections. The tool may be used again."""
        await super().aclose()
        await self._client.aclose()


def _episode(request_id: str) -> str:
    return request_id.rpartition(":")[0]


def _target(wanted: str, source: str) -> str:
    """Where a file goes. As upstream a path without a suffix is a folder, and so is one that ends in a slash.

    >>> _target("/home/user", "a/b.csv"), _target("x/c.csv", "b.csv"), _target("Makefile", "Makefile")
    ('/home/user/b.csv', '/home/user/x/c.csv', '/home/user/Makefile')
    """
    name = posixpath.basename(source.rstrip("/")).replace("\0", "") or "file"
    last = posixpath.basename(wanted)
    if last != name and not posixpath.splitext(last)[1]:
        wanted = posixpath.join(wanted, name)
    return posixpath.normpath(posixpath.join(HOME, wanted))


def _text(execution: Execution, what: str, timeout_s: float) -> str:
    """What the model reads. Raises ToolError where the code did not end well."""
    text = execution.output.rstrip("\n")
    if execution.cut:
        text += f"\n(output cut at {OUTPUT_CHARS:,} characters)"
    if execution.timed_out:
        text += f"\nkilled: the {what} ran longer than {timeout_s:g} s"
    elif execution.exit_code and execution.exit_code < 0:
        text += f"\nkilled by signal {_signal_name(-execution.exit_code)}"
    elif execution.exit_code and not text:
        text = f"exit code {execution.exit_code}"
    if execution.variables_lost:
        text += "\n(the variables of earlier code are gone; files are there)"
    if execution.exit_code != 0:
        raise ToolError(Failure.TOOL_ERROR, text.lstrip("\n"))
    return text.lstrip("\n") or "(no output)"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
