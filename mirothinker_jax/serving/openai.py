"""OpenAI's endpoints: chat with tools, completions, both as streams too, and the list of models.

For people and programs that want text. Never for training: what a client renders from such an answer is not what was
sampled.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import AsyncGenerator
from typing import Any

from aiohttp import web

from mirothinker_jax.serving.desk import Desk
from mirothinker_jax.serving.errors import ApiError, bad, flag, read_object, refuse_unknown, token_ids, whole
from mirothinker_jax.serving.generation import Answer, Asked
from mirothinker_jax.serving.messages import Conversation, Said, open_conversation, tool_calls
from mirothinker_jax.serving.requests import LABELS, NEUTRAL, SETTINGS, asked_of, check_model, streamed
from mirothinker_jax.serving.tokens import check_logprobs, spans, text_ids, usage

_COMMON = {*SETTINGS, *LABELS, "stream", "stream_options", "return_token_ids"}
_COMPLETION_TOKENS = 16  # OpenAI's default


class OpenAIEndpoints:
    """Over one desk."""

    def __init__(self, desk: Desk):
        self._desk, self._served, self._begun = desk, desk.served, int(time.time())

    def routes(self) -> list[web.RouteDef]:
        """The endpoints."""
        return [
            web.post("/v1/chat/completions", self.chat),
            web.post("/v1/completions", self.completions),
            web.get("/v1/models", self.models),
            web.get("/v1/models/{name:.+}", self.model),
        ]

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [self._about()]})

    async def model(self, request: web.Request) -> web.Response:
        check_model(self._served, {"model": request.match_info["name"]})
        return web.json_response(self._about())

    def _about(self) -> dict[str, Any]:
        about = {
            "id": self._served.name,
            "object": "model",
            "created": self._begun,
            "owned_by": "mirothinker_jax",
        }
        return about | {"max_model_len": self._served.context_tokens}

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """POST {messages, tools}."""
        body, served = await read_object(request), self._served
        own = {
            "messages",
            "tools",
            "tool_choice",
            "max_tokens",
            "max_completion_tokens",
            "logprobs",
            "top_logprobs",
        }
        off = NEUTRAL | {"parallel_tool_calls": (True,), "modalities": (["text"],)}
        refuse_unknown(body, _COMMON | own, off)
        check_model(served, body)
        if (choice := body.get("tool_choice")) not in (None, "auto", "none"):
            raise bad(
                f"tool_choice is {choice!r}, and the model is free here; give auto or none", "tool_choice"
            )
        tools = None if choice == "none" else body.get("tools")
        conversation = open_conversation(served, body.get("messages"), tools)
        if body.get("max_completion_tokens") is not None:
            body["max_tokens"] = body["max_completion_tokens"]
        check_logprobs(body, "top_logprobs")
        stream, with_usage = streamed(body)
        asked = asked_of(served, conversation.ids, body, None, stream=stream)
        head = self._head("chatcmpl", "chat.completion.chunk" if stream else "chat.completion")
        if stream:
            if flag(body, "logprobs"):
                raise bad("logprobs are not streamed; leave out stream or logprobs", "logprobs")
            return await self._stream(
                request, head, self._chat_events(conversation, asked), asked, with_usage
            )
        answer = await self._desk.sample(asked)
        said = conversation.whole(answer.text)
        message: dict[str, Any] = {"role": "assistant", "content": said.content}
        if said.reasoning is not None:
            message["reasoning_content"] = said.reasoning
        if said.calls:
            message |= {"content": said.content or None, "tool_calls": tool_calls(said.calls)}
        logprobs = {"content": self._token_logprobs(answer)} if flag(body, "logprobs") else None
        finish = {
            "index": 0,
            "message": message,
            "logprobs": logprobs,
            "finish_reason": _finish(answer, said),
        }
        if flag(body, "return_token_ids"):
            finish["token_ids"] = answer.tokens
        return web.json_response(head | {"choices": [finish], "usage": usage(len(asked.ids), answer)})

    def _token_logprobs(self, answer: Answer) -> list[dict[str, Any]]:
        decode = self._served.codec.decode
        texts = [decode([token]) for token in answer.tokens]
        return [
            {"token": text, "logprob": p, "bytes": list(text.encode()), "top_logprobs": []}
            for text, p in zip(texts, answer.logprobs, strict=True)
        ]

    async def _chat_events(
        self, conversation: Conversation, asked: Asked
    ) -> AsyncGenerator[tuple[Answer, Any], None]:
        """(the turn so far, a choice of a chunk)."""
        sent = {"reasoning_content": "", "content": ""}
        yield Answer(), {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
        async with contextlib.aclosing(self._desk.answers(asked)) as answers:
            async for answer in answers:
                said = (
                    conversation.whole(answer.text)
                    if answer.finish
                    else conversation.so_far(_certain(answer.text, asked.stops))
                )
                delta: dict[str, Any] = {}
                for key, text in (("reasoning_content", said.reasoning or ""), ("content", said.content)):
                    if len(text) > len(sent[key]) and text.startswith(sent[key]):
                        delta[key], sent[key] = text[len(sent[key]) :], text
                if said.calls:
                    delta["tool_calls"] = tool_calls(said.calls, indexed=True)
                finish = _finish(answer, said) if answer.finish else None
                if delta or finish:
                    yield answer, {"index": 0, "delta": delta, "finish_reason": finish}

    async def completions(self, request: web.Request) -> web.StreamResponse:
        """POST {prompt}: a text, or token ids."""
        body, served = await read_object(request), self._served
        refuse_unknown(body, _COMMON | {"prompt", "max_tokens", "logprobs"}, NEUTRAL)
        check_model(served, body)
        prompt = body.get("prompt")
        if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
            raise bad("prompt is a list of prompts; send them one by one", "prompt")
        is_ids = isinstance(prompt, list)
        ids = token_ids(prompt, "prompt", served.vocab_size) if is_ids else text_ids(served, prompt, "prompt")
        wanted = body.get("logprobs") is not None
        if wanted and whole(body, "logprobs", 0) != 0:
            raise bad("logprobs: only the sampled token has a log-prob; give 0", "logprobs")
        stream, with_usage = streamed(body)
        asked = asked_of(served, ids, body, _COMPLETION_TOKENS, stream=stream)
        head = self._head("cmpl", "text_completion")
        if stream:
            if wanted:
                raise bad("logprobs are not streamed; leave out stream or logprobs", "logprobs")
            return await self._stream(request, head, self._completion_events(asked), asked, with_usage)
        answer = await self._desk.sample(asked)
        choice: dict[str, Any] = {
            "index": 0,
            "text": answer.text,
            "finish_reason": answer.finish,
            "logprobs": None,
        }
        if wanted:
            tokens = [served.codec.decode([token]) for token in answer.tokens]
            choice["logprobs"] = {"tokens": tokens, "token_logprobs": answer.logprobs}
            choice["raw_logprobs"] = answer.raw_logprobs
        if flag(body, "return_token_ids"):
            choice |= {"token_ids": answer.tokens, "weight_versions": spans(served, answer)}
        return web.json_response(head | {"choices": [choice], "usage": usage(len(ids), answer)})

    async def _completion_events(self, asked: Asked) -> AsyncGenerator[tuple[Answer, Any], None]:
        sent = ""
        async with contextlib.aclosing(self._desk.answers(asked)) as answers:
            async for answer in answers:
                text = answer.text if answer.finish else _certain(answer.text, asked.stops)
                if len(text) > len(sent) or answer.finish:
                    finish = answer.finish or None
                    yield (
                        answer,
                        {"index": 0, "text": text[len(sent) :], "finish_reason": finish, "logprobs": None},
                    )
                    sent = text

    async def _stream(
        self,
        request: web.Request,
        head: dict[str, Any],
        events: AsyncGenerator[tuple[Answer, Any], None],
        asked: Asked,
        with_usage: bool,
    ) -> web.StreamResponse:
        """Server-sent events. An error before the first one is an answer of its own, later it is an event."""
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
        )

        async def send(value: Any) -> None:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            await response.write(f"data: {text}\n\n".encode())

        answer = Answer()
        async with contextlib.aclosing(events):
            try:
                async for latest, choice in events:
                    answer = latest
                    if not response.prepared:
                        await response.prepare(request)
                    await send(head | {"choices": [choice]})
                if with_usage:
                    await send(head | {"choices": [], "usage": usage(len(asked.ids), answer)})
            except ApiError as error:
                if not response.prepared:
                    raise
                await send(error.body())
        await send("[DONE]")
        await response.write_eof()
        return response

    def _head(self, kind: str, name: str) -> dict[str, Any]:
        about = {"id": f"{kind}-{secrets.token_hex(12)}", "object": name, "created": int(time.time())}
        return about | {"model": self._served.name}


def _finish(answer: Answer, said: Said) -> str:
    return "tool_calls" if said.calls and answer.finish == "stop" else answer.finish


def _certain(text: str, stops: tuple[str, ...]) -> str:
    """The text without what may be the beginning of a stop string, or of a character."""
    text = text.rstrip("\ufffd")
    longest = max(map(len, stops), default=0)
    for size in range(min(longest - 1, len(text)), 0, -1):
        if any(stop.startswith(text[-size:]) for stop in stops):
            return text[:-size]
    return text
