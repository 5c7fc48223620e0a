"""Servers and a name server of this process, for tests of what a client reaches.

What the guard takes for public is changed where a server on loopback must be reached.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from aiohttp import web

from mirothinker_jax.config import ToolsConfig
from mirothinker_jax.tools import guard
from mirothinker_jax.tools.browse import ScrapePage
from mirothinker_jax.tools.client import WebClient
from mirothinker_jax.tools.spec import ToolError

PUBLIC, INSIDE = "127.0.0.1", "127.0.0.2"  # as these tests have it
PAGE = "<title>T</title><p>north of here</p>"


class Net:
    """Two servers on one port, one of them public, and the answers of a name server."""

    def __init__(self, monkeypatch):
        self.names, self.asked, self.reached = {}, [], []
        self.answer: Callable[[web.BaseRequest], Any] = lambda request: web.Response(text=PAGE)
        monkeypatch.setattr(guard, "is_public", lambda address: address == PUBLIC)
        monkeypatch.setattr(guard, "is_this_machine", lambda family, address: False)
        real = socket.getaddrinfo

        def getaddrinfo(host, port, *args, **kwargs):
            if host not in self.names:
                return real(host, port, *args, **kwargs)
            self.asked.append(host)
            answers = self.names[host]
            found = answers.pop(0) if len(answers) > 1 else answers[0]
            if not found:
                raise socket.gaierror(socket.EAI_NONAME, "unknown")
            return [
                (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (a, port, 0, 0))
                if ":" in a
                else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, port))
                for a in found
            ]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    def run(self, use, **options):
        """`use(client, port)` while the servers answer."""

        async def handle(request):
            self.reached.append((request.transport.get_extra_info("sockname")[0], request.host, request.path))
            response = self.answer(request)
            return response if isinstance(response, web.StreamResponse) else await response

        async def main():
            runner = web.ServerRunner(web.Server(handle, access_log=None), shutdown_timeout=0.1)
            await runner.setup()
            await web.TCPSite(runner, PUBLIC, 0).start()
            port = runner.addresses[0][1]
            await web.TCPSite(runner, INSIDE, port).start()
            client = WebClient(**options)
            try:
                return await use(client, port)
            finally:
                await client.aclose()
                await runner.cleanup()

        return asyncio.run(main())

    def get(self, url, method="GET", headers=None, service=False, **options):
        """The response to one request, or the ToolError."""

        async def use(client, port):
            try:
                return await client.send(method, url.format(port=port), "e:0.0", headers, service=service)
            except ToolError as error:
                return error

        return self.run(use, **options)

    def scrape(self, url, **arguments):
        async def use(client, port):
            tool = ScrapePage(client, ToolsConfig())
            arguments["url"], arguments["info_to_extract"] = url.format(port=port), "north"
            try:
                return await tool.run(arguments, "e:0.0")
            except ToolError as error:
                return error

        return self.run(use)
