"""Processes that read pages: killed when late, replaced when dead, gone when closed; and long pages through them."""

import asyncio
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from document_files import pdf, rezipped, xlsx_file

from mirothinker_jax.config import ToolsConfig
from mirothinker_jax.tools import reading_pool
from mirothinker_jax.tools.browse import ScrapePage
from mirothinker_jax.tools.documents import Source
from mirothinker_jax.tools.page_kind import Unreadable
from mirothinker_jax.tools.reading_pool import ReadersBroken, ReadingPool
from mirothinker_jax.tools.reading_worker import answer
from mirothinker_jax.tools.spec import Failure, ToolError

URL = "http://a.test/x"
PDF = Source(pdf(["north 1"], ["south 2"]), "application/pdf", URL)
NESTED = Source(b"<div>" * 80_000, "text/html", URL)  # ten seconds of lexbor


def children():
    """Processes that this one started and that still run."""
    lists = Path("/proc/self/task").glob("*/children")
    return {int(pid) for file in lists for pid in file.read_text("ascii").split()}


async def let_run():
    """Time for a task to send a page to a process that waits for one."""
    for _ in range(20):
        await asyncio.sleep(0)


def in_pool(use, processes=1):
    """What `use(pool)` returns; no process may be left."""
    before = children()

    async def main():
        pool = ReadingPool(processes)
        try:
            return await use(pool)
        finally:
            await pool.aclose()

    try:
        return asyncio.run(main())
    finally:
        assert children() <= before


async def attempt(pool, source, seconds=20.0):
    try:
        return await pool.find(source, "north", 1, seconds)
    except (Unreadable, ReadersBroken) as error:
        return str(error)


def test_one_warm_process_reads_again_and_again_and_says_what_it_cannot():
    async def use(pool):
        first = await attempt(pool, PDF)
        held = children()
        refused = await attempt(pool, Source(b"%PDF-", "", URL))
        again = await attempt(pool, PDF)
        return first, refused, again, held == children()

    first, refused, again, same = in_pool(use)
    assert first == again and (first.title, first.lines) == (
        "north 1",
        (),
    )  # the title's own line is not repeated
    assert refused.startswith("a damaged PDF") and same


def test_a_late_process_is_killed_and_replaced_and_so_is_a_dead_one():
    async def use(pool):
        start = time.monotonic()
        late = await attempt(pool, NESTED, 0.7)
        took = time.monotonic() - start
        await attempt(pool, PDF)
        before = children() - others
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        return late, took, (await attempt(pool, PDF)).title

    others = children()
    late, took, title = in_pool(use)
    assert late.startswith("reading it took longer than") and took < 5 and title == "north 1"


def test_a_caller_that_gives_up_leaves_no_process_at_work():
    async def use(pool):
        await attempt(pool, PDF)
        before = children()
        task = asyncio.create_task(attempt(pool, NESTED))
        await let_run()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return before & children()

    assert in_pool(use) == set()


def test_closing_ends_processes_at_work_and_the_pool_starts_anew():
    async def use(pool):
        await attempt(pool, PDF)
        task = asyncio.create_task(attempt(pool, NESTED))
        await let_run()
        await pool.aclose()
        return await task, (await attempt(pool, PDF)).title

    ended, title = in_pool(use)
    assert ended in ("its reader crashed on it", "processes to read the page ended before they had it")
    assert title == "north 1"


ORPHAN = """
import asyncio, sys
from mirothinker_jax.tools.documents import Source
from mirothinker_jax.tools.reading_pool import ReadingPool
async def main():
    pool = ReadingPool(1)
    await pool.find(Source(b"x", "text/plain", "u"), "x", 1, 60.0)
    print(*(worker._process.pid for worker in pool._all), flush=True)
    await pool.find(Source(b"<div>" * 80_000, "text/html", "u"), "x", 1, 60.0, 1.0)
asyncio.run(main())
"""


def test_a_process_at_work_outlives_a_killed_run_by_its_time_at_most():
    with subprocess.Popen([sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE) as run:
        pid = int(run.stdout.readline())
        watch = os.pidfd_open(pid)
        run.kill()
    assert select.select([watch], [], [], 20.0)[0]  # readable when it has ended
    os.close(watch)


def test_waiting_for_a_process_has_a_limit_and_is_this_machines_fault():
    async def use(pool):
        await attempt(pool, PDF)
        task = asyncio.create_task(attempt(pool, NESTED, 0.7))
        await let_run()
        with pytest.raises(ReadersBroken, match=r"no process was free to read the page in 0\.1 s"):
            await pool.find(PDF, "x", 1, 0.1)
        return await task

    assert "took longer" in in_pool(use)


@pytest.mark.parametrize(
    ("command", "message"), [(("/no/such",), "cannot start"), (("/bin/true",), "ended at its start")]
)
def test_where_no_process_starts(monkeypatch, command, message):
    monkeypatch.setattr(reading_pool, "_COMMAND", command)

    async def use(pool):
        with pytest.raises(ReadersBroken, match=message):
            await pool.find(PDF, "x", 1, 5.0)

    in_pool(use)


def test_too_much_memory_is_said(monkeypatch):
    limited = "import mirothinker_jax.tools.reading_worker as w; w._LIMITS['RLIMIT_AS'] = 100 << 20; w.main()"
    monkeypatch.setattr(reading_pool, "_COMMAND", (*reading_pool._COMMAND[:2], "-c", limited))

    async def use(pool):
        return await attempt(pool, Source(b"word " * 80_000, "text/plain", URL)), await attempt(
            pool, Source(rezipped(xlsx_file([[1]]), add={"x.xml": bytes(100 << 20)}), "", URL)
        )

    page, refused = in_pool(use)
    assert page.title == URL and refused == "a file that takes too much memory to read"


def test_what_no_reader_foresaw_is_said_in_a_line():
    request = {
        "content_type": "text/html",
        "url": URL,
        "reader": "none",
        "wanted": "",
        "count": 1,
        "seconds": 1,
    }
    assert answer(request, b"x") == {"unreadable": "its reader failed on it (KeyError: 'none')"}


class Web:
    """A client whose every page is one response."""

    def __init__(self, response):
        self._response = response

    async def fetch(self, url, request_id, headers=None, **_):
        return self._response

    async def aclose(self):
        pass


def scrape(body, kind, settings=None):
    import httpx

    response = httpx.Response(
        200, content=body, headers={"Content-Type": kind}, request=httpx.Request("GET", URL)
    )
    before = children()

    async def main():
        tool = ScrapePage(Web(response), settings or ToolsConfig(scrape_lines=1))
        try:
            return await tool.run({"url": URL, "info_to_extract": "north"}, "e:0.0"), children() - before
        except ToolError as error:
            return error, children() - before
        finally:
            await tool.aclose()

    try:
        return asyncio.run(main())
    finally:
        assert children() <= before


def test_only_what_is_long_or_no_text_takes_a_process():
    long = b"<title>T</title>" + b"<p>filler</p>" * 2_000 + b"<p>north</p>"
    assert scrape(b"<title>T</title><p>north</p>", "text/html") == ("T\nnorth", set())
    text, started = scrape(long, "text/html")
    assert text == "T\nnorth" and len(started) == 1
    for body in (PDF.body, b"\n" + PDF.body, b"junk\n" + PDF.body):
        text, started = scrape(body, "text/html")
        assert text == 'north 1\nnothing about "north"' and len(started) == 1


@pytest.mark.parametrize(("waits_s", "failure"), [(0.0, Failure.NETWORK), (1.2, Failure.UNREACHABLE)])
def test_whose_fault_it_is_where_no_process_is_free(monkeypatch, waits_s, failure):
    """The machine's, unless the page itself used up the time."""
    monkeypatch.setattr(reading_pool, "_COMMAND", ("/bin/true",))
    times = iter((0.0, waits_s, *[waits_s] * 100))
    monkeypatch.setattr("mirothinker_jax.tools.browse.time", SimpleNamespace(monotonic=lambda: next(times)))
    error, _ = scrape(PDF.body, "", ToolsConfig(deadline_s=2.0))
    assert error.failure is failure


def test_files_over_the_limit_and_unreadable_ones_are_the_pages_fault():
    error, started = scrape(PDF.body, "", ToolsConfig(file_bytes=len(PDF.body)))
    assert (error.failure, started) == (Failure.TOOL_ERROR, set())
    assert str(error) == f"cannot read {URL}: a file of more than {len(PDF.body):,} bytes"
    error, _ = scrape(b"%PDF-1", "")
    assert error.failure is Failure.TOOL_ERROR and str(error).startswith(f"cannot read {URL}: a damaged PDF")
