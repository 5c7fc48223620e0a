"""Processes that read pages beside the event loop, few and warm, started when the first page needs one.

Parsers of hostile files hang, crash and eat memory, and a thread cannot be killed. A process that does not answer in
time is, and so is one whose caller gave up; another starts with the next page. A process is replaced after some
pages, since C libraries leak.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import sys
import time
from pathlib import Path

from mirothinker_jax.tools.documents import Source
from mirothinker_jax.tools.page_kind import Unreadable
from mirothinker_jax.tools.readable import Page

_PAGES = 200  # that one process reads
_MOST = 8  # processes, where there are as many processors
_LINE_BYTES = 1 << 23  # longest answer: PAGE_CHARS characters, some of them escaped
_TRIES = 3  # for a process that ended while it had nothing to do: someone killed it
_PACKAGES = str(Path(__file__).resolve().parents[2])
_COMMAND = (sys.executable, "-P", "-m", "mirothinker_jax.tools.reading_worker")


class ReadersBroken(Exception):
    """No process can be started here, or none was free in time: this machine's fault, not the page's."""


class ReadingPool:
    """Reads pages in at most `processes` processes. Close it; it may then be used again, on another event loop."""

    def __init__(self, processes: int | None = None):
        self._most = processes or min(_MOST, os.cpu_count() or 1)
        self._slots: asyncio.Semaphore | None = None
        self._idle: list[_Worker] = []
        self._all: set[_Worker] = set()

    async def find(
        self, source: Source, wanted: str, count: int, seconds: float, reading_s: float = math.inf
    ) -> Page:
        """The lines that documents.choose_lines takes from the page.

        Args:
          seconds: with waiting for a process that is free.
          reading_s: without.

        Raises:
          Unreadable: also where reading took too long, too much memory, or crashed.
          ReadersBroken
        """
        end = time.monotonic() + seconds
        if self._slots is None:
            self._slots = asyncio.Semaphore(self._most)
        slots = self._slots
        try:
            async with asyncio.timeout(seconds):
                await slots.acquire()
        except TimeoutError as error:
            raise ReadersBroken(f"no process was free to read the page in {seconds:.3g} s") from error
        try:
            for _ in range(_TRIES):
                with contextlib.suppress(_Gone):
                    return await self._find(source, wanted, count, end, reading_s, slots)
        finally:
            slots.release()
        raise ReadersBroken("processes to read the page ended before they had it")

    async def _find(
        self, source: Source, wanted: str, count: int, end: float, reading_s: float, slots: asyncio.Semaphore
    ) -> Page:
        if self._slots is not slots:  # closed while this page waited
            raise _Gone
        worker = await self._take(max(0.0, end - time.monotonic()))
        try:
            if self._slots is not slots:
                raise _Gone
            seconds = min(reading_s, max(0.1, end - time.monotonic()))
            return await worker.find(source, wanted, count, seconds)
        finally:  # also when the call is cancelled
            if worker.alive and worker.pages < _PAGES and self._slots is slots:
                self._idle.append(worker)
            else:
                self._all.discard(worker)
                await asyncio.shield(worker.kill())

    async def _take(self, seconds: float) -> _Worker:
        while self._idle:
            worker = self._idle.pop()
            if worker.alive:
                return worker
            self._all.discard(worker)
            await worker.kill()
        worker = await _Worker.start(seconds)
        self._all.add(worker)
        return worker

    async def aclose(self) -> None:
        """Kills all processes, also those at work."""
        workers, self._slots = list(self._all), None
        self._all.clear()
        self._idle.clear()
        for worker in workers:
            await worker.kill()


class _Gone(Exception):
    """The process ended before it had the page: not the page's fault."""


class _Worker:
    """One process; make it with `start`, always `kill` it."""

    def __init__(self, process: asyncio.subprocess.Process):
        self._process = process
        self._usable = True
        self.pages = 0

    @classmethod
    async def start(cls, seconds: float) -> _Worker:
        try:
            process = await asyncio.create_subprocess_exec(
                *_COMMAND,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                cwd="/",
                env=_environment(),
                start_new_session=True,
                limit=_LINE_BYTES,
            )
        except OSError as error:
            raise ReadersBroken(f"cannot start a process to read the page: {error}") from error
        worker = cls(process)
        assert process.stdout
        ready = False
        try:
            async with asyncio.timeout(seconds):
                ready = bool(await process.stdout.readline())
        except TimeoutError as error:
            raise ReadersBroken(f"the process to read the page did not start in {seconds:.3g} s") from error
        finally:
            if not ready:
                await asyncio.shield(worker.kill())
        if not ready:
            raise ReadersBroken("the process to read the page ended at its start")
        return worker

    @property
    def alive(self) -> bool:
        """Whether it may be asked again: it runs, and owes no answer."""
        return self._usable and self._process.returncode is None

    async def find(self, source: Source, wanted: str, count: int, seconds: float) -> Page:
        """Sends the page and waits. Raises Unreadable or _Gone."""
        self.pages += 1
        head = {
            **{"bytes": len(source.body), "content_type": source.content_type, "url": source.url},
            **{"reader": source.reader, "wanted": wanted, "count": count, "seconds": seconds},
        }
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin and stdout
        line = b""
        self._usable, started = False, time.monotonic()
        try:
            async with asyncio.timeout(seconds):
                with contextlib.suppress(ConnectionError):
                    stdin.write(json.dumps(head).encode() + b"\n" + source.body)
                    await stdin.drain()
                if not await stdout.readline():
                    raise _Gone
                line = await stdout.readline()
        except TimeoutError:
            raise Unreadable(f"reading it took longer than {seconds:.3g} s") from None
        except ValueError:
            raise Unreadable("a file with too much text") from None
        if not line.endswith(b"\n"):  # the process ended, perhaps by its own alarm
            late = time.monotonic() - started > 0.9 * seconds
            reason = f"reading it took longer than {seconds:.3g} s" if late else "its reader crashed on it"
            raise Unreadable(reason)
        self._usable = True
        answer = json.loads(line)
        if "unreadable" in answer:
            raise Unreadable(answer["unreadable"])
        return Page(answer["title"], tuple(answer["lines"]))

    async def kill(self) -> None:
        """Ends the process, whatever it does."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        if self._process.stdin:
            self._process.stdin.close()
        await self._process.wait()


def _environment() -> dict[str, str]:
    """Not this process's own: keys have no place beside a stranger's file."""
    packages = os.pathsep.join(filter(None, (_PACKAGES, os.environ.get("PYTHONPATH", ""))))
    return {"PYTHONPATH": packages, "LANG": "C.UTF-8", "PATH": os.defpath, "OPENBLAS_NUM_THREADS": "1"}
