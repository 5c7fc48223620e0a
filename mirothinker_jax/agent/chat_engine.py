"""An engine over a chat endpoint: turns of whatever model answers there, for asking and evaluating.

Never for training: an endpoint gives no ids and no log-probs (a Turn has zeros). Ids are those of `Characters`. The
messages are read back from them and sent as text, results of tools as user messages, so prompts, call formats and
context policies are what they are for any other engine. A thought that the server returns apart is put back as
<think>…</think>, calls that it returns apart as the text of the call format.

Contexts are counted in characters, `chars_per_token` of them to a token; what the server counted is in `usage`, and a
figure far below ours is a warning. Control tokens are text to an endpoint: what looks like one in what others wrote
is broken up here (`<|im_end|>` becomes `< |im_end|>`). Not safe: a server whose control tokens look otherwise; a
server's own chat template, which may drop the thoughts of earlier turns (Qwen3's does, before the last user message
that is no result in a `<tool_response>`).
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mirothinker_jax.agent.characters import Characters, read_messages
from mirothinker_jax.agent.chat_endpoint import ChatEndpoint, ContextTooLong, ServedModel
from mirothinker_jax.agent.policy import Capabilities, Request, Turn
from mirothinker_jax.agent.wire.formats import WIRES
from mirothinker_jax.config import ConfigError, check
from mirothinker_jax.tools.hermes import RESULT_TAGS
from mirothinker_jax.tools.spec import ToolCall

logger = logging.getLogger(__name__)

CHARS_PER_TOKEN = 3.0  # fewer than English has (about 4), more than Chinese (about 1.5)

_CONTROL = re.compile(r"<(?=\|[^<|>\s]{1,40}\|>|｜[^<>\s]{1,40}｜>|(?:start|end)_of_turn>)|\[(?=/?INST\])")
_STRUCTURE = re.compile(r"<(?=/?(?:think|tool_call|tool_response|s)>)")  # only the policy and we write these
_NOT_WHOLE = ("length", "content_filter")
_MOST_SEED = 2**31 - 1
_ANSWER_BYTES = 1 << 25
_NAMED = 8  # models in a message, at most
_FIRST_MEASURE_TOKENS = 2000  # of prompts, before the count of characters is judged


@dataclass
class Usage:
    """What an endpoint was asked for, as it counts tokens. `prompt_chars` are those of the messages it counted."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_chars: int = 0

    @property
    def chars_per_token(self) -> float | None:
        """Measured on the prompts; None where the endpoint counts nothing."""
        return self.prompt_chars / self.prompt_tokens if self.prompt_tokens else None


class ChatEngine:
    """An Engine (agent/policy.py).

    Args:
      model: the endpoint's name for it.
      call_format: one of WIRES, in which calls that the server returns apart are written.
      servers: a tool's name → its server's, for "mcp".
      chars_per_token: turns `Request.max_tokens`, which counts characters, into tokens.

    Attributes:
      model: the endpoint's name for it.
      usage: what was asked for so far.
    """

    capabilities = Capabilities(frozenset({"temperature", "top_p", "repetition_penalty"}), raw_logprobs=False)

    def __init__(
        self,
        endpoint: ChatEndpoint,
        model: str,
        call_format: str,
        servers: Mapping[str, str] | None = None,
        chars_per_token: float = CHARS_PER_TOKEN,
    ):
        self._endpoint, self.model = endpoint, model
        self._wire, self._servers = WIRES[call_format], dict(servers or {})
        self._chars_per_token = chars_per_token
        self._codec = Characters()
        self._warned: set[str] = set()
        self.usage = Usage()

    @property
    def description(self) -> str:
        """The model and whose it is, for people."""
        return f"{self.model} at {self._endpoint.origin}"

    async def generate(self, request: Request) -> Turn:
        """The endpoint's turn. An empty one that is not complete where the messages are longer than its model holds.

        Raises:
          EngineError: no answer, however often it was asked for.
          ConfigError: the endpoint refuses the key, the address, or something in the request.
        """
        messages = chat_messages(request.ids)
        sampling = request.sampling
        self.capabilities.check(sampling, "a chat endpoint")
        body: dict[str, Any] = {
            "model": self.model,
            "messages": messages,
            "max_tokens": max(math.ceil(request.max_tokens / self._chars_per_token), 1),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": request.seed & _MOST_SEED,
        }
        if sampling.repetition_penalty != 1.0:
            body["repetition_penalty"] = sampling.repetition_penalty
        try:
            answer = await self._endpoint.answer(body, request.session)
        except ContextTooLong as error:
            self._warn_once("agent.context_tokens is more than the server's model holds: %s", error)
            return Turn((), (), False)
        except ConfigError as error:
            # OpenAI's own models, for example, know none.
            if "repetition_penalty" in str(error) and sampling.repetition_penalty != 1.0:
                raise ConfigError(f"{error}; set config.evaluation.repetition_penalty=1") from None
            raise
        self._count(answer.get("usage"), messages)
        choice = answer["choices"][0]
        complete = choice.get("finish_reason") not in _NOT_WHOLE
        ids = self._codec.encode(self._text(choice["message"]))
        ids = (*ids, self._codec.im_end_id) if complete else tuple(ids)
        return Turn(ids, (0.0,) * len(ids), complete)

    def forget(self, session: str) -> None:
        """Nothing is kept of a conversation."""

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._endpoint.aclose()

    def _text(self, message: Mapping[str, Any]) -> str:
        thought = message.get("reasoning_content") or message.get("reasoning")
        said = _content(message.get("content")) or _content(message.get("refusal"))
        calls = self._calls(message.get("tool_calls"))
        if not said:  # what sets calls apart from words
            calls = calls.lstrip("\n")
        elif calls and not calls.startswith("\n"):
            calls = f"\n{calls}"
        text = said + calls
        if isinstance(thought, str) and thought.strip():
            # A turn may be cut in its thought, which then stays open.
            end = f"\n</think>\n\n{text}" if text else ""
            text = f"<think>\n{thought.strip()}{end}"
        return _well_formed(text)

    def _calls(self, calls: Any) -> str:
        """Calls that the server has read, as the policy would write them. Arguments that are not quite JSON stay as
        they are, for our own parser to mend or refuse."""
        read: list[ToolCall] = []
        odd: dict[str, str] = {}  # what is rendered for them → arguments as they came
        for call in calls if isinstance(calls, list) else ():
            function = call.get("function") if isinstance(call, dict) else None
            if not isinstance(function, dict):
                continue
            name, given = str(function.get("name") or ""), function.get("arguments") or {}
            arguments = _json_object(given)
            if arguments is None:
                arguments = {f"odd {len(odd)}": None}
                odd[json.dumps(arguments)] = str(given)
            read.append(ToolCall(self._servers.get(name, ""), name, arguments))
        text = self._wire.render(read) if read else ""
        for rendered, given in odd.items():
            text = text.replace(rendered, given)
        return text

    def _count(self, usage: Any, messages: Sequence[Mapping[str, str]]) -> None:
        self.usage.requests += 1
        if not isinstance(usage, dict):
            return
        prompt, sampled = (usage.get(key) for key in ("prompt_tokens", "completion_tokens"))
        if type(sampled) is int:
            self.usage.completion_tokens += sampled
        if type(prompt) is int and prompt > 0:
            self.usage.prompt_tokens += prompt
            self.usage.prompt_chars += sum(len(m["content"]) for m in messages)
        measured = self.usage.chars_per_token
        enough = self.usage.prompt_tokens >= _FIRST_MEASURE_TOKENS
        if enough and measured and measured < 0.8 * self._chars_per_token:
            self._warn_once(
                "the server counts %.2g characters a token, and %.2g are taken: contexts are longer than "
                "agent.context_tokens says; give --chars-per-token %.2g",
                *(measured, self._chars_per_token, measured),
            )

    def _warn_once(self, message: str, *values: object) -> None:
        if message not in self._warned:
            self._warned.add(message)
            logger.warning(message, *values)


@dataclass(frozen=True)
class ChatSettings:
    """Of an endpoint, as the commands take them."""

    url: str  # http://host:port/v1
    model: str = ""  # by the endpoint's name for it; empty: the only one that it serves
    key_env: str = "OPENAI_API_KEY"  # environment variable with its key, if it wants one
    chars_per_token: float = CHARS_PER_TOKEN
    timeout_s: float = 600.0  # of one turn
    retries: int = 6
    connections: int = 16  # turns asked for at once

    def __post_init__(self):
        check(self.chars_per_token > 0, f"--chars-per-token is {self.chars_per_token}; it must be > 0")
        check(self.timeout_s > 0, f"--timeout is {self.timeout_s}; it must be > 0")


async def open_chat_engine(
    settings: ChatSettings,
    call_format: str,
    servers: Mapping[str, str] | None = None,
    context_tokens: int = 0,
) -> ChatEngine:
    """An engine of the endpoint, on this event loop, when it is known to answer.

    Args:
      context_tokens: what the agent is going to use of the model's context.

    Raises:
      ConfigError: nobody answers, the key is refused, which model is meant is not clear, or its context is smaller.
    """
    from mirothinker_jax.tools.client import WebClient

    client = WebClient(
        connections=settings.connections,
        timeout_s=settings.timeout_s,
        max_body_bytes=_ANSWER_BYTES,
        service_url=settings.url,
    )
    endpoint = ChatEndpoint(
        client, settings.url, os.environ.get(settings.key_env, ""), settings.key_env, settings.retries
    )
    try:
        model = _choose(await endpoint.models(), settings.model, endpoint.origin)
        check(
            model.context_tokens is None or context_tokens <= model.context_tokens,
            f"agent.context_tokens is {context_tokens}, and {model.name} at {endpoint.origin} holds "
            f"{model.context_tokens}; lower it, or serve the model with a longer context",
        )
    except BaseException:
        await endpoint.aclose()
        raise
    return ChatEngine(endpoint, model.name, call_format, servers, settings.chars_per_token)


def _choose(served: Sequence[ServedModel], name: str, origin: str) -> ServedModel:
    if name:  # which may be another name of one that is listed
        return next((model for model in served if model.name == name), ServedModel(name))
    if len(served) == 1:
        return served[0]
    names = ", ".join(model.name for model in served[:_NAMED]) + (", …" if len(served) > _NAMED else "")
    what = f"serves {names}" if served else "does not list its models"
    raise ConfigError(f"{origin} {what}; name one by --model")


def chat_messages(ids: Sequence[int]) -> list[dict[str, str]]:
    """The whole messages in ids of `Characters`, as an endpoint takes them: system, then user and assistant in turn,
    as many servers' templates want it. Results are in the user's message, each in the frame of its format."""
    begin, end = RESULT_TAGS
    found: list[dict[str, str]] = []
    for message in read_messages(ids):
        role, text = message["role"], _without_control(message["role"], message["content"])
        if role == "tool":
            role, text = "user", f"{begin}\n{text}\n{end}"
        if found and found[-1]["role"] == role == "user":
            found[-1]["content"] += f"\n{text}"
        else:
            found.append({"role": role, "content": text})
    return found


def _without_control(role: str, text: str) -> str:
    """`text` with the brackets of control tokens set apart: whatever a page says, or a model repeats, it ends no
    message."""
    text = _CONTROL.sub(lambda bracket: f"{bracket[0]} ", text)
    text = _STRUCTURE.sub("< ", text) if role in ("user", "tool") else text
    return _well_formed(text)


def _well_formed(text: str) -> str:
    """Half a surrogate pair is no character: no network takes it."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _json_object(value: Any) -> dict[str, Any] | None:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    return value if isinstance(value, dict) else None


def _content(value: Any) -> str:
    """Text, or the texts of a list of parts, as some servers write it."""
    if isinstance(value, list):
        parts = [part for part in value if isinstance(part, dict) and part.get("type", "text") == "text"]
        return "".join(part["text"] for part in parts if isinstance(part.get("text"), str))
    return value if isinstance(value, str) else ""
