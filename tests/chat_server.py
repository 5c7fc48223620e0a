"""A chat endpoint on loopback that answers by a script, over real HTTP."""

import asyncio
import contextlib
import json
import threading

from aiohttp import web


def said(content=None, finish="stop", usage=None, **message):
    """An answer of status 200. `message`: more of its fields, such as reasoning_content."""
    message = {"role": "assistant", "content": content, **message}
    body = {"choices": [{"message": message, "finish_reason": finish}]}
    return {**body, "usage": usage} if usage else body


class Failing:
    """An answer of another status."""

    def __init__(self, status, body="", **headers):
        self.status, self.body, self.headers = status, body, headers


STALL = object()  # nothing comes, until the client leaves
BREAK = object()  # the connection breaks


class ChatServer:
    """Answers /v1/chat/completions by `script`, an answer a request (or a function of the request's body), the last one
    for ever. Use as an async context manager.

    Attributes:
      bodies, headers: of the requests for answers, in their order.
    """

    def __init__(self, *script, models=({"id": "m"},)):
        self.script, self.models = list(script), models
        self.bodies, self.headers = [], []

    async def _handle(self, request):
        if request.path == "/v1/models":
            if isinstance(self.models, Failing):
                return self._failing(self.models)
            return web.json_response({"data": list(self.models)})
        if request.path != "/v1/chat/completions":
            return web.Response(status=404, text="no such path")
        self.bodies.append(json.loads(await request.read()))
        self.headers.append(request.headers)
        answer = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        answer = answer(self.bodies[-1]) if callable(answer) else answer
        if answer is STALL:
            await asyncio.sleep(3600)
        if answer is BREAK:
            request.transport.abort()
        if isinstance(answer, Failing):
            return self._failing(answer)
        return web.json_response(answer if isinstance(answer, dict) else said(answer))

    def _failing(self, answer):
        body = answer.body if isinstance(answer.body, str) else json.dumps(answer.body)
        headers = {name.replace("_", "-"): value for name, value in answer.headers.items()}
        return web.Response(status=answer.status, text=body, headers=headers)

    async def __aenter__(self):
        self._runner = web.ServerRunner(
            web.Server(self._handle, access_log=None), shutdown_timeout=0.01, handler_cancellation=True
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"
        return self

    async def __aexit__(self, *exc):
        await self._runner.cleanup()


@contextlib.contextmanager
def serving(*script, **options):
    """A ChatServer on a loop and a thread of its own, for a client that has its own loop."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def wait(coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(10)

    async def end():
        await server.__aexit__()
        stalled = asyncio.all_tasks() - {asyncio.current_task()}
        for task in stalled:
            task.cancel()
        await asyncio.gather(*stalled, return_exceptions=True)

    server = ChatServer(*script, **options)
    try:
        yield wait(server.__aenter__())
    finally:
        wait(end())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
