"""One server over HTTP: requests, and what their failures mean.

Left out: streaming, which chat servers have lost token ids by. Not safe: without https a key travels in the open.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import aiohttp

_SAID_CHARS = 300  # of an error's body, for a message
_MAY_PASS = (408, 425, 429)
_KEY = (401, 403)


class ReplicaDown(Exception):
    """The server does not answer, or cannot now; another one may, or this one later."""


class ReplicaRefuses(Exception):
    """The server will not do what it was asked, however often it is. `status` is HTTP's."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


class Replica:
    """A server at `url`, which begins with its scheme and has no path of its own."""

    def __init__(self, url: str, session: aiohttp.ClientSession, timeout_s: float, key: str, key_env: str):
        """`key` is sent as a bearer token where there is one; `key_env` names its environment variable in messages."""
        self.url = url.rstrip("/").removesuffix("/v1")
        self._session, self._timeout_s = session, timeout_s
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._key_env = key_env

    async def get(self, path: str, timeout_s: float | None = None) -> Any:
        """The answer to a GET: a JSON value, or text where it is none. Raises as `post`."""
        return await self._send("GET", path, None, timeout_s)

    async def post(
        self, path: str, body: Mapping[str, Any] | None = None, timeout_s: float | None = None
    ) -> Any:
        """The answer to a POST, likewise.

        Raises:
          ReplicaDown: no answer within the timeout, none at all, 408, 425, 429 or 5xx.
          ReplicaRefuses: any other status that is an error.
        """
        return await self._send("POST", path, body, timeout_s)

    async def _send(
        self, method: str, path: str, body: Mapping[str, Any] | None, timeout_s: float | None
    ) -> Any:
        timeout_s = timeout_s or self._timeout_s
        try:
            async with self._session.request(
                method,
                f"{self.url}{path}",
                json=body,
                headers=self._headers,
                timeout=aiohttp.ClientTimeout(total=timeout_s),
                allow_redirects=False,
            ) as answer:
                text = await answer.text(errors="replace")
        except TimeoutError:
            raise ReplicaDown(f"{self.url}{path}: no answer in {timeout_s:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise ReplicaDown(f"{self.url}: {_one_line(str(error) or type(error).__name__)}") from None
        if answer.status < 300:
            try:
                return json.loads(text)
            except ValueError:
                return text
        self._refuse(path, answer.status, text)

    def _refuse(self, path: str, status: int, text: str) -> None:
        said = f"{self.url}{path}: HTTP {status}: {_one_line(_message(text))}"
        if status in _KEY:
            way_out = (
                f"see the key in {self._key_env}" if self._headers else "name its key by rollout.key_env"
            )
            raise ReplicaRefuses(f"{said}; {way_out}", status)
        if status in _MAY_PASS or status >= 500:
            raise ReplicaDown(said)
        raise ReplicaRefuses(said, status)


def _message(text: str) -> str:
    """What an error's body says, as OpenAI, vLLM and SGLang write it."""
    try:
        body = json.loads(text)
    except ValueError:
        return text
    error = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail") or error
    return error if isinstance(error, str) else json.dumps(error)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:_SAID_CHARS]
