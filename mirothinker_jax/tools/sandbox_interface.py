"""What a sandbox is to the tools: method names follow e2b-code-interpreter, so that a hosted one can take its place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

OUTPUT_CHARS = 20_000
HOME = "/home/user"


@dataclass(frozen=True)
class Execution:
    output: str  # standard output and error, at most OUTPUT_CHARS
    exit_code: int | None = 0  # negative: killed by that signal; None: it ran out of time
    timed_out: bool = False
    cut: bool = False  # there was more output
    variables_lost: bool = False  # those of earlier code are gone; files are there


class SandboxDied(Exception):
    """The sandbox is gone: its code killed it, or it was killed for what its code did. The message is for the model."""


class SandboxFailed(Exception):
    """The sandbox's host does not do its part: the machine, or a service. Infrastructure, not the model's fault."""


class FileRefused(Exception):
    """A file cannot be written there; the message says why."""


class Files(Protocol):
    async def write(self, path: str, data: bytes) -> None:
        """Writes a file and the folders above it. Raises FileRefused, SandboxDied or SandboxFailed."""
        ...


class Commands(Protocol):
    async def run(self, command: str, timeout_s: float) -> Execution:
        """Runs a shell command in the home folder. Raises as `Sandbox.run_code`."""
        ...


class Sandbox(Protocol):
    """Files stay from one use to the next, and so do variables of code. Uses wait for each other."""

    @property
    def files(self) -> Files: ...

    @property
    def commands(self) -> Commands: ...

    async def run_code(self, code: str, timeout_s: float) -> Execution:
        """Runs Python code after that before it.

        Raises:
          SandboxDied: there is no sandbox any more.
          SandboxFailed: as it says.
        """
        ...

    @property
    def alive(self) -> bool:
        """Whether it may be used again, as far as is known."""
        ...

    async def kill(self) -> None:
        """Ends every process and forgets every file. May be called again."""
        ...
