"""A server over an engine that says what it is told, without a model: for what stands around the engine."""

import asyncio
import contextlib
import json

import aiohttp
import hf_checkpoint

from mirothinker_jax.agent.policy import Capabilities, Turn
from mirothinker_jax.data.hf_tokenizer import open_tokenizer
from mirothinker_jax.serving.policy import Served
from mirothinker_jax.serving.server import Limits, Server, bind

TAGS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
VOCAB = 259 + len(TAGS)
LIMITS = Limits(grace_s=0.2)


class Scripted:
    """Writes `text` and its end, whatever the context, as many tokens at a time as it is asked for. `begun` is set when
    a turn is asked for, and with `hold` no turn is given before that is set."""

    capabilities = Capabilities(sampling=frozenset({"temperature", "top_p", "top_k", "min_p"}))

    def __init__(self, codec):
        self.codec, self.text, self.requests, self.forgotten = codec, "", [], []
        self.begun, self.hold = asyncio.Event(), None
        self._starts = {}

    async def generate(self, request):
        self.requests.append(request)
        self.begun.set()
        if self.hold is not None:
            await self.hold.wait()
        start = self._starts.setdefault(request.session, len(request.ids))
        whole = [*self.codec.encode(self.text), self.codec.im_end_id]
        said = len(request.ids) - start
        assert list(request.ids[start:]) == whole[:said]  # the pieces so far are its context
        tokens = tuple(whole[said : said + request.max_tokens])
        logprobs = tuple(-0.5 - i for i in range(said, said + len(tokens)))
        return Turn(tokens, logprobs, tokens[-1] == self.codec.im_end_id, tuple(2 * p for p in logprobs))

    def forget(self, session):
        self.forgotten.append(session)


class Client:
    """`post` and `get` give (status, JSON or text); `events` those of a stream."""

    def __init__(self, server, engine, session):
        self.server, self.engine, self.session = server, engine, session

    async def get(self, path, **kwargs):
        async with self.session.get(self.server.url + path, **kwargs) as answer:
            return await self._read(answer)

    async def post(self, path, body=None, **kwargs):
        async with self.session.post(self.server.url + path, json=body, **kwargs) as answer:
            return await self._read(answer)

    async def _read(self, answer):
        is_json = answer.content_type == "application/json"
        return answer.status, (await answer.json()) if is_json else await answer.text()

    async def events(self, path, body):
        status, text = await self.post(path, body | {"stream": True})
        assert status == 200, text
        assert text.endswith("data: [DONE]\n\n")
        return [json.loads(line[6:]) for line in text.split("\n\n")[:-2]]


def run(
    tmp_path,
    test,
    text="",
    call_format="hermes",
    template="chatml",
    limits=LIMITS,
    key="",
    **fields,
):
    """Runs `await test(client)` with a server whose engine says `text`."""
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    hf_checkpoint.write_tokenizer(folder, TAGS)
    codec = open_tokenizer(folder / "tokenizer.json", template)

    async def main():
        engine = Scripted(codec)
        engine.text = text
        served = Served(
            "tiny", engine, codec, {}, call_format, frozenset({codec.im_end_id}), 4096, VOCAB, **fields
        )
        async with contextlib.AsyncExitStack() as stack:
            server = await stack.enter_async_context(Server(served, bind("127.0.0.1", 0), key, limits))
            session = await stack.enter_async_context(aiohttp.ClientSession())
            return await test(Client(server, engine, session))

    return asyncio.run(main())
