"""An OpenAI-compatible chat endpoint over HTTP: what it serves, and one answer at a time, asked for again where that
may help.

Asked again are failures that may pass (tools/chat_api.py), timeouts, connections that break, and answers that are none.
A key that is refused, an address that is none and a request that the endpoint cannot take are ConfigErrors at once:
waiting mends none of them. The address is the user's own, so it may be this machine.

Left out: streaming. Not safe: the endpoint reads all that the agent reads.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from yarl import URL

from mirothinker_jax.agent.policy import EngineError
from mirothinker_jax.agent.terminal import plain
from mirothinker_jax.config import ConfigError
from mirothinker_jax.tools.chat_api import (
    MayPass,
    api_base,
    key_header,
    passes,
    read_answer,
    retry_after_s,
    retrying,
)
from mirothinker_jax.tools.spec import ToolError

if TYPE_CHECKING:  # only a run that asks an endpoint pays for importing HTTP
    import httpx

    from mirothinker_jax.tools.client import WebClient

logger = logging.getLogger(__name__)

_LONGEST_WAIT_S = 60.0
_RETRY_AFTER_S = 300.0  # an endpoint that asks for a longer wait is taken to be closed
_MESSAGE_CHARS = 300  # of what an endpoint says of an error
_REFUSED = (401, 403)
_TOO_LONG = re.compile(
    r"context[ _-]?(?:length|window|size)|(?:prompt|input|request|conversation) (?:is|are) too long|too many tokens"
    r"|input length|reduce the length|maximum (?:model|sequence|input|prompt) length|`?inputs`? tokens",
    re.IGNORECASE,
)


class ContextTooLong(Exception):
    """The endpoint's model cannot hold the messages."""


@dataclass(frozen=True)
class ServedModel:
    """A model by the endpoint's name for it, and the tokens that it can hold, where the endpoint says so."""

    name: str
    context_tokens: int | None = None


class ChatEndpoint:
    """`client` is one of a single service (`WebClient(service_url=url)`).

    Args:
      url: `http://host:port/v1`, with or without `/chat/completions`; without a path, `/v1` is meant.
      key: sent as a bearer token, where there is one.
      key_env: names the environment variable that has the key, in messages.
      retries: how often a request is made again.
      first_wait_s: before the second attempt, at most; it doubles each time.
    """

    def __init__(
        self,
        client: WebClient,
        url: str,
        key: str = "",
        key_env: str = "OPENAI_API_KEY",
        retries: int = 6,
        first_wait_s: float = 1.0,
    ):
        self._base = api_base(url)
        self._client, self._key_env, self._has_key = client, key_env, bool(key)
        self._headers = key_header(key)
        self._tries, self._first_wait_s = retries + 1, first_wait_s
        self._limit = "max_tokens"  # OpenAI's newest models know it by another name
        self.retried = 0

    @property
    def origin(self) -> str:
        """Whom we ask, without user, password and path: for messages."""
        return str(URL(self._base).origin())

    async def models(self) -> list[ServedModel]:
        """What is served; nothing where the endpoint has no such list. Asked once, without retries.

        Raises ConfigError where nobody answers, or the key is refused.
        """
        try:
            response = await self._client.send(
                "GET", f"{self._base}/models", "models", self._headers, service=True
            )
        except ToolError as error:
            raise ConfigError(f"{error}; is the server up, and is this its address?") from None
        if response.status_code in _REFUSED:
            raise self._refusal(response)
        try:
            listed = json.loads(response.content)["data"] if response.status_code == 200 else []
            return [ServedModel(str(m["id"]), _tokens(m.get("max_model_len"))) for m in listed]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return []

    async def answer(self, body: Mapping[str, Any], request_id: str) -> dict[str, Any]:
        """The JSON of an answer that has `choices[0].message`.

        Raises:
          ContextTooLong: the messages and `max_tokens` are more than the model holds.
          EngineError: no answer, however often it was asked for.
          ConfigError: the endpoint refuses the key, the address, or something in the request.
        """
        import tenacity  # 0.05 s

        def count(state: tenacity.RetryCallState) -> None:
            self.retried += 1
            if state.outcome:
                logger.info("%s; asking again", state.outcome.exception())

        stop = tenacity.stop_after_attempt(self._tries)
        again = retrying(self._first_wait_s, _LONGEST_WAIT_S, stop, before_sleep=count)
        try:
            return await again(self._attempt, body, request_id)
        except MayPass as error:
            raise EngineError(f"{error} (asked {self._tries} times)") from error

    async def _attempt(self, body: Mapping[str, Any], request_id: str) -> dict[str, Any]:
        sent = {self._limit if name == "max_tokens" else name: value for name, value in body.items()}
        url = f"{self._base}/chat/completions"
        try:
            response = await self._client.send(
                "POST", url, request_id, self._headers, json=sent, service=True
            )
        except ToolError as error:
            raise MayPass(str(error)) from error
        status = response.status_code
        if status == 200:
            return self._checked(response.content)
        said = _message(response.content)
        what = f"{self.origin} answers HTTP {status}{f': {said}' if said else ''}"
        if status in _REFUSED:
            raise self._refusal(response)
        if status == 413 or (status in (400, 422) and _TOO_LONG.search(said)):
            raise ContextTooLong(what)
        if status == 400 and self._limit == "max_tokens" and "max_completion_tokens" in said:
            self._limit = "max_completion_tokens"
            return await self._attempt(body, request_id)
        if status == 429 and "insufficient_quota" in response.text:
            raise EngineError(what)
        if passes(status):
            wait_s = retry_after_s(response)
            if wait_s is not None and wait_s > _RETRY_AFTER_S:
                raise EngineError(f"{what}; it asks to come back in {wait_s:.0f} s")
            raise MayPass(what, wait_s)
        if status == 404:
            raise ConfigError(
                f"{what}; there is no {URL(url).path}, or no model of that name: the address usually ends in /v1, and "
                "--model names the model"
            )
        raise ConfigError(what)

    def _checked(self, content: bytes) -> dict[str, Any]:
        if (answer := read_answer(content)) is not None:
            return answer
        said = _message(content)
        raise MayPass(f"{self.origin} gives an answer without choices[0].message{f': {said}' * bool(said)}")

    def _refusal(self, response: httpx.Response) -> ConfigError:
        given = "refuses the key in" if self._has_key else "wants a key: set"
        said = _message(response.content)
        more = f" (HTTP {response.status_code}{f': {said}' if said else ''})"
        return ConfigError(
            f"{self.origin} {given} the environment variable {self._key_env}, or name another by --key-env{more}"
        )

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._client.aclose()


def _tokens(value: Any) -> int | None:
    return value if type(value) is int and value > 0 else None


def _message(content: bytes) -> str:
    """What an endpoint says of an error, in the places where servers put it."""
    try:
        said: Any = json.loads(content)
    except (ValueError, RecursionError):
        said = content.decode("utf-8", "replace")
    for key in ("error", "message", "detail"):
        if isinstance(said, dict) and said.get(key):
            said = said[key]
    return plain(said if isinstance(said, str) else json.dumps(said, ensure_ascii=False), _MESSAGE_CHARS)
