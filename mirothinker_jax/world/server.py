"""The embedded web as a process of its own, reached as an HTTP forward proxy on loopback.

Clients ask the proxy for absolute addresses (`GET http://airports.test/KTM`), so the addresses of pages
are the same in every run, whatever the port. It answers for the world's own hosts and refuses all
others: nothing is ever forwarded, and only 127.0.0.1 is listened on.

The process ends with the one that started it, also when that is killed by SIGKILL: it watches its
standard input, which the system then closes, and its parent's id, for the case that another process
holds a copy of the pipe. Not safe against other users of the machine: anyone on it may read the pages.

`python -m mirothinker_jax.world.server` reads one line of JSON, {"settings": {…WorldConfig…}, "seed": 0},
and answers with one line, {"port": …, "pages": …}, when it is ready.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

from mirothinker_jax.config import ConfigError, WorldConfig, build

_START_S = 60.0  # before a start counts as failed; a whole world takes two seconds
_STOP_S = 5.0
_BODY_BYTES = 64 * 1024  # largest search request


class WorldServer:
    """Starts and stops the process. A context manager.

    with WorldServer(settings, seed) as server:
        httpx.get("http://airports.test/KTM", proxy=server.proxy_url)
    """

    def __init__(self, settings: WorldConfig, seed: int):
        self._settings = settings
        self._seed = seed
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    @property
    def proxy_url(self) -> str:
        """The proxy that leads a client to the embedded web."""
        if self._process is None:
            raise RuntimeError("the embedded web is not running; call start() first")
        return f"http://127.0.0.1:{self._port}"

    @property
    def pid(self) -> int | None:
        """Of the server's process."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Returns when pages can be asked for.

        Raises:
          ConfigError: the process ended or said nothing; its own message is on standard error.
        """
        if self._process is not None:
            raise RuntimeError("the embedded web is running already")
        root = str(Path(__file__).parents[2])
        path = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH")) if p)
        process = subprocess.Popen(
            [sys.executable, "-m", "mirothinker_jax.world.server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": path},
        )
        self._process = process
        assert process.stdin and process.stdout
        try:
            request = {"settings": dataclasses.asdict(self._settings), "seed": self._seed}
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            ready, _, _ = select.select([process.stdout], [], [], _START_S)
            line = process.stdout.readline() if ready else b""
            if not line:
                reason = "ended" if ready else f"said nothing for {_START_S:.0f} s"
                raise ConfigError(
                    f"the embedded web {reason} before it was ready (world.port={self._settings.port}; "
                    "0 takes any free port)"
                )
            self._port = json.loads(line)["port"]
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends the process; harmless where it is not running."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin and process.stdout
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    def __enter__(self) -> WorldServer:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


async def serve(settings: WorldConfig, seed: int) -> None:
    """Serves until standard input ends or the parent is gone."""
    from aiohttp import web

    from mirothinker_jax.world.facts import load_world
    from mirothinker_jax.world.site import Site

    parent = os.getppid()
    world = load_world(settings, seed)
    site = Site(world, settings, seed)

    async def handle(request: web.BaseRequest) -> web.Response:
        # An absolute request line outranks the Host header (RFC 9112, 3.2.2).
        url = request.rel_url
        host = (url.host or request.host.partition(":")[0]).lower()
        body = b""
        if request.can_read_body:
            if (request.content_length or 0) > _BODY_BYTES:
                return web.Response(status=413)
            body = await request.content.read(_BODY_BYTES)
        reply = site.answer(request.method, host, url.path, request.headers, body)
        if reply.delay_s:
            await asyncio.sleep(reply.delay_s)
        return web.Response(
            status=reply.status, body=reply.body, headers={"Content-Type": reply.content_type}
        )

    runner = web.ServerRunner(web.Server(handle, access_log=None), shutdown_timeout=1.0)
    await runner.setup()
    listener = web.TCPSite(runner, "127.0.0.1", settings.port, backlog=1024)
    await listener.start()
    port = runner.addresses[0][1]
    sys.stdout.write(json.dumps({"port": port, "pages": len(world.entities)}) + "\n")
    sys.stdout.flush()
    await _until_orphaned(parent)
    await runner.cleanup()


async def _until_orphaned(parent: int) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    def on_input() -> None:
        if not os.read(sys.stdin.fileno(), 4096):
            loop.remove_reader(sys.stdin.fileno())
            ended.set()

    loop.add_reader(sys.stdin.fileno(), on_input)
    while not ended.is_set() and os.getppid() == parent:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), 1.0)


def main() -> None:
    """The server's process: serves until its standard input closes."""
    # Unbuffered: what follows the first line is left in the pipe for _until_orphaned.
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(sys.stdin.fileno(), 1)
        if not byte:
            return
        line += byte
    request = json.loads(line)
    # Ctrl-C in a terminal reaches this process too; it has to serve until its parent is done.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in request["settings"].items()}
    try:
        asyncio.run(serve(build(WorldConfig, settings, "world."), request["seed"]))
    except (OSError, ConfigError) as error:
        sys.exit(f"the embedded web cannot start: {error}")


if __name__ == "__main__":
    main()
