"""A headless Chromium, driven by the DevTools protocol over a websocket: as much of it as looking at one page takes.

A page is looked at when what it should show is there (`wait`): the browser's own --screenshot catches pages that are
still loading. Requests and complaints are kept, so that a test can say there were none. Linux; no download, no driver.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome")
_START_S = 30.0


def find_chromium() -> str | None:
    """The path of a Chromium on this machine."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One tab. `requests` are addresses that were asked for, `complaints` what the console and the script said."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse):
        self._socket, self._numbers = socket, itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._session = ""
        self.requests: list[str] = []
        self.complaints: list[str] = []

    async def attach(self) -> None:
        """Begins to listen."""
        target = await self.call("Target.createTarget", url="about:blank")
        session = await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = session["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            await self.call(f"{domain}.enable")

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The protocol's answer. Raises RuntimeError for its errors."""
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        message = {"id": number, "method": method, "params": parameters}
        await self._socket.send_json(message | ({"sessionId": self._session} if self._session else {}))
        return await answer

    async def evaluate(self, script: str) -> Any:
        """The value of an expression in the page; a promise's, once it has one."""
        found = await self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in found:
            raise RuntimeError(f"{script}: {found['exceptionDetails']}")
        return found["result"].get("value")

    async def wait(self, script: str, timeout_s: float = 30.0) -> Any:
        """The first value of the expression that is true: plain data, as nodes come back empty. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            while not (value := await self.evaluate(script)):
                await asyncio.sleep(0.01)
            return value

    async def open(self, address: str) -> None:
        """Goes to a page and returns at once. `wait` knows when it is there."""
        await self.call("Page.navigate", url=address)

    async def show(self, width: int, height: int, dark: bool = False) -> None:
        """The size of the window, in CSS pixels, and the colours that the reader prefers."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        await self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])

    async def screenshot(self, path: Path) -> None:
        """What the window shows, as a PNG."""
        shot = await self.call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(shot["data"]))

    async def listen(self) -> None:
        """Takes what the browser says, until it closes."""
        async for message in self._socket:
            said = json.loads(message.data)
            if (answer := self._answers.pop(said.get("id", 0), None)) and not answer.done():
                if "error" in said:
                    answer.set_exception(RuntimeError(f"{said['error']}"))
                else:
                    answer.set_result(said["result"])
            elif "method" in said:
                self._take(said["method"], said["params"])

    def _take(self, event: str, told: dict[str, Any]) -> None:
        if event == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
        elif event == "Runtime.exceptionThrown":
            self.complaints.append(str(told["exceptionDetails"]))
        elif event == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
            self.complaints.append(str(told["args"]))
        elif event == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.complaints.append(str(told["entry"]))


@contextlib.asynccontextmanager
async def open_page(chromium: str) -> AsyncIterator[Page]:
    """An empty page of a browser of its own, which ends with it."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = [
            "--headless=new",
            "--disable-gpu",
            "--no-first-run",
            "--disable-dev-shm-usage",
            "--mute-audio",
        ]
        options += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
        options += ["--no-sandbox"] if os.geteuid() == 0 else []
        process = await asyncio.create_subprocess_exec(
            *(chromium, *options, "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            port, path = await _address(Path(profile) / "DevToolsActivePort")
            async with (
                aiohttp.ClientSession() as session,
                session.ws_connect(f"ws://127.0.0.1:{port}{path}", max_msg_size=0) as socket,
            ):
                page = Page(socket)
                listening = asyncio.create_task(page.listen())
                await page.attach()
                yield page
                with contextlib.suppress(Exception):
                    async with asyncio.timeout(5):
                        page._session = ""
                        await page.call("Browser.close")
                listening.cancel()
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, 9)
            await process.wait()


async def _address(file: Path) -> tuple[str, str]:
    async with asyncio.timeout(_START_S):
        while True:
            with contextlib.suppress(FileNotFoundError, ValueError):
                port, path = file.read_text().split()
                return port, path
            await asyncio.sleep(0.02)
