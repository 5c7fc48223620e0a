"""A server of vLLM's or SGLang's protocols that says what a script tells it to. On the test's own event loop."""

import asyncio
import contextlib
import json

from aiohttp import web

VLLM_PATHS = ("/inference/v1/generate", "/v1/completions", "/pause", "/resume", "/collective_rpc")
LABELS = ("/update_weight_version", "/weight_info")
SGLANG_PATHS = ("/generate", "/pause_generation", "/continue_generation", "/update_weights_from_disk")


class Stub:
    """`turns`: functions from a request's body to (tokens, log-probs, finish), one a request; the last one stays.

    `log` has every (path, body). `refuses` names settings that are answered by 400, `broken` paths that are by 500, and
    `stalled` those that are never answered.
    """

    def __init__(self, kind="vllm", paths=None, processed=True, key=""):
        self.kind, self.processed, self.key = kind, processed, key
        self.paths = paths or ((*VLLM_PATHS, *LABELS) if kind == "vllm" else SGLANG_PATHS)
        self.turns, self.log = [lambda body: ([7], [-0.5], "length")], []
        self.refuses, self.broken, self.stalled = set(), set(), set()
        self.label, self.port = "initial", 0

    async def __aenter__(self):
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.01)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *_):
        await self._runner.cleanup()

    def asked(self, *paths):
        """Bodies of requests for turns (or of `paths`), without the probes of the start."""
        paths = paths or ("/inference/v1/generate", "/v1/completions", "/generate")
        bodies = [body for path, body in self.log if path in paths]
        return [b for b in bodies if b.get("token_ids", b.get("prompt", b.get("input_ids"))) != [0]]

    async def _answer(self, request):
        path, text = request.path, await request.text()
        body = json.loads(text) if text else {}
        if self.key and request.headers.get("Authorization") != f"Bearer {self.key}":
            return web.json_response({"error": {"message": "no such key"}}, status=401)
        self.log.append((path, body))
        if path in self.stalled:
            await asyncio.Event().wait()
        if path in self.broken:
            return web.json_response({"error": {"message": "out of memory"}}, status=500)
        if path == "/health":
            return web.Response()
        if path == "/openapi.json":
            return web.json_response({"paths": {p: {} for p in self.paths}, "info": {"title": "FastAPI"}})
        if path == "/v1/models":
            return web.json_response({"data": [{"id": "stub"}]})
        if path in ("/weight_info", "/model_info"):
            return web.json_response({"weight_version": self.label})
        if path not in self.paths:
            return web.json_response({"error": {"message": "Not Found"}}, status=404)
        if path == "/update_weight_version":
            self.label = body["new_version"]
        if path == "/update_weights_from_disk":
            self.label = body["weight_version"]
            return web.json_response({"success": True, "message": ""})
        settings = body.get("sampling_params", body)
        if wrong := [name for name in self.refuses if settings.get(name) not in (1.0, 0, -1)]:
            return web.json_response({"error": {"message": f"{wrong[0]} is not supported"}}, status=400)
        if path == "/inference/v1/generate" or path == "/v1/completions":
            return web.json_response({"choices": [self._choice(path, body, settings)]})
        if path == "/generate":
            tokens, logprobs, finish = self._turn(body["input_ids"], body)
            pairs = [[p, i, None] for i, p in zip(tokens, logprobs, strict=True)]
            return web.json_response(
                {"meta_info": {"output_token_logprobs": pairs, "finish_reason": {"type": finish}}}
            )
        return web.json_response({"status": "ok"})

    def _turn(self, ids, body):
        if ids == [0]:  # a probe
            only = body.get("sampling_params", body).get("top_k") == 1
            return [3], [0.0 if only and self.processed else -1.0], "length"
        turn = self.turns.pop(0) if len(self.turns) > 1 else self.turns[0]
        return turn(body)

    def _choice(self, path, body, settings):
        tokens, logprobs, finish = self._turn(body.get("token_ids", body.get("prompt")), body)
        choice = {"token_ids": tokens, "finish_reason": finish, "index": 0}
        if "/weight_info" in self.paths:
            choice["weight_versions"] = [{"version": self.label, "start": 0, "end": len(tokens)}]
        if path == "/v1/completions":
            return choice | {"logprobs": {"token_logprobs": logprobs}}
        content = [{"token_id": i, "logprob": p} for i, p in zip(tokens, logprobs, strict=True)]
        return choice | {"logprobs": {"content": content}}


@contextlib.asynccontextmanager
async def stubs(*servers):
    """All of them, up."""
    async with contextlib.AsyncExitStack() as stack:
        for server in servers:
            await stack.enter_async_context(server)
        yield servers
