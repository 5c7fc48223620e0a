"""A sandbox of E2B, or of a service of one's own with the same API, by their package e2b-code-interpreter.

Their files and commands go over a protocol of their own (Connect RPC), so the package speaks it. New sandboxes have no
internet access: what the leak guard refuses would otherwise be one `curl` away. A sandbox ends with its episode. After
this process was killed the service ends it, when its time is over without use.

Tested against a stand-in with the package's interface (version 2.11), not against the service.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import math
import os
import re
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

from mirothinker_jax.config import ToolsConfig, check
from mirothinker_jax.tools.sandbox_interface import (
    OUTPUT_CHARS,
    Execution,
    FileRefused,
    SandboxDied,
    SandboxFailed,
)

PACKAGE = "e2b_code_interpreter"
_REQUEST_S = 30.0  # to create, end or prolong one
_GRACE_S = 5.0  # by which the package's own limit is later than ours
_REASON_CHARS = 200
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # of tracebacks


class RemoteHost:
    """The service, as the settings name it."""

    def __init__(self, settings: ToolsConfig):
        """Asks the service nothing.

        Raises:
          ConfigError: the package is not installed, or there is no key.
        """
        check(
            importlib.util.find_spec(PACKAGE) is not None,
            "tools.sandbox is 'e2b', which needs a package: pip install 'mirothinker-jax[e2b]'",
        )
        name = settings.sandbox_key_env
        key = os.environ.get(name, "")
        check(
            bool(key),
            f"tools.sandbox is 'e2b': set the environment variable {name} (tools.sandbox_key_env names it)",
        )
        self._options: dict[str, Any] = {"api_key": key, "request_timeout": _REQUEST_S}
        if settings.sandbox_url:
            # Sandboxes are hosts beside the API: https://PORT-ID.DOMAIN by https://api.DOMAIN.
            domain = (urlsplit(settings.sandbox_url).hostname or "").removeprefix("api.")
            self._options |= {"api_url": settings.sandbox_url.rstrip("/"), "domain": domain}
        if settings.sandbox_template:
            self._options["template"] = settings.sandbox_template

    async def create(self, seconds: float) -> RemoteSandbox:
        """A sandbox that the service ends after so many seconds without use. Raises SandboxFailed."""
        package = importlib.import_module(PACKAGE)  # half a second, which only a run with it pays
        try:
            sandbox = await package.AsyncSandbox.create(
                timeout=math.ceil(seconds), allow_internet_access=False, **self._options
            )
        except Exception as error:  # those of their HTTP library come through, too
            raise SandboxFailed(f"the sandbox did not start: {_reason(error)}") from error
        return RemoteSandbox(package, sandbox, seconds)


class RemoteSandbox:
    """As sandbox_interface.Sandbox says."""

    def __init__(self, package: Any, sandbox: Any, seconds: float):
        self._package, self._sandbox, self._seconds = package, sandbox, seconds
        self._turn = asyncio.Lock()
        self._prolonged = time.monotonic()
        self.alive = True
        self.files, self.commands = _Files(self), _Commands(self)

    async def run_code(self, code: str, timeout_s: float) -> Execution:
        """As sandbox_interface.Sandbox says."""
        with contextlib.suppress(TimeoutError):
            async with self._errors(), asyncio.timeout(timeout_s):
                return _execution(await self._sandbox.run_code(code, timeout=timeout_s + _GRACE_S))
        return Execution("", None, timed_out=True)

    @contextlib.asynccontextmanager
    async def _errors(self) -> AsyncIterator[None]:
        """In turn, with time left on the service's side; its exceptions as ours."""
        package = self._package
        async with self._turn:
            if not self.alive:
                raise SandboxDied("it ended before the code did")
            try:
                if time.monotonic() - self._prolonged > self._seconds / 4:
                    self._prolonged = time.monotonic()
                    await self._sandbox.set_timeout(math.ceil(self._seconds), request_timeout=_REQUEST_S)
                yield
            except (package.SandboxNotRunningException, package.SandboxNotFoundException) as error:
                self.alive = False
                raise SandboxDied("the service ended it") from error
            except (TimeoutError, FileRefused):
                raise
            except Exception as error:
                raise SandboxFailed(f"the sandbox's service fails: {_reason(error)}") from error
            except asyncio.CancelledError:  # what runs there would go on
                await asyncio.shield(self.kill())
                raise

    async def kill(self) -> None:
        """Ends it on the service's side; where that fails, its time ends it."""
        if self.alive:
            self.alive = False
            with contextlib.suppress(Exception):
                await self._sandbox.kill(request_timeout=_REQUEST_S)


class _Files:
    def __init__(self, sandbox: RemoteSandbox):
        self._sandbox = sandbox

    async def write(self, path: str, data: bytes) -> None:
        package = self._sandbox._package
        async with self._sandbox._errors():
            try:
                await self._sandbox._sandbox.files.write(path, data, request_timeout=_REQUEST_S)
            except (package.InvalidArgumentException, package.NotEnoughSpaceException) as error:
                raise FileRefused(f"cannot write {path}: {_reason(error)}") from error


class _Commands:
    def __init__(self, sandbox: RemoteSandbox):
        self._sandbox = sandbox

    async def run(self, command: str, timeout_s: float) -> Execution:
        package, inner = self._sandbox._package, self._sandbox._sandbox
        with contextlib.suppress(TimeoutError):
            async with self._sandbox._errors(), asyncio.timeout(timeout_s):
                try:
                    result = await inner.commands.run(command, timeout=timeout_s + _GRACE_S)
                except package.CommandExitException as error:
                    result = error  # with the same attributes
                return _capped(result.stdout + result.stderr, result.exit_code)
        return Execution("", None, timed_out=True)


def _execution(said: Any) -> Execution:
    text = "".join(said.logs.stdout) + "".join(said.logs.stderr)
    text += "".join(f"{result.text}\n" for result in said.results if result.text)
    if said.error is not None:
        text += _COLOUR.sub("", said.error.traceback or f"{said.error.name}: {said.error.value}")
    return _capped(text, int(said.error is not None))


def _capped(text: str, exit_code: int) -> Execution:
    return Execution(text[:OUTPUT_CHARS], exit_code, cut=len(text) > OUTPUT_CHARS)


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:_REASON_CHARS]
