"""The program of a process that reads pages: a request on standard input, a Page on standard output.

Started by reading_pool.py as a module. A request is a line of JSON and as many bytes as it says, an answer a line of
JSON; the process says so when it is ready, and when it has a request whole. It has its own limits, whether or not
whoever started it still lives: memory, and for each request a time after which the kernel's alarm ends it, also in
the middle of a C library. What libraries write to standard output goes nowhere.

Not safe: it runs as the same user and sees its files. A fault in pdfium or libxml2 that lets a document run code
would let it run that code here.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from typing import BinaryIO

from mirothinker_jax.tools.documents import Source, choose_lines, read_page
from mirothinker_jax.tools.page_kind import Unreadable

MEMORY_BYTES = 3 << 29  # address space: 1.5 GiB, of which the libraries take 0.2
_LIMITS = {"RLIMIT_AS": MEMORY_BYTES, "RLIMIT_CORE": 0, "RLIMIT_FSIZE": 0}
_REASON_CHARS = 200
_ENOUGH = 0.5  # of the time: a long document is then read no further, and what was read is answered


def answer(request: dict[str, object], body: bytes) -> dict[str, object]:
    """{"title", "lines"}, or {"unreadable": what it is}."""
    source = Source(body, *(str(request[key]) for key in ("content_type", "url", "reader")))
    wanted, count, seconds = (
        str(request["wanted"]),
        int(str(request["count"])),
        float(str(request["seconds"])),
    )
    try:
        page = choose_lines(read_page(source, seconds * _ENOUGH), wanted, count)
    except Unreadable as error:
        return {"unreadable": str(error)}
    except MemoryError:
        return {"unreadable": "a file that takes too much memory to read"}
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return {"unreadable": f"its reader failed on it ({reason[:_REASON_CHARS]})"}
    return {"title": page.title, "lines": page.lines}


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Until the requests end."""

    def say(what: object) -> None:
        answers.write(json.dumps(what, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
        answers.flush()

    say("ready")
    while True:
        line = requests.readline()
        if not line:
            return
        request = json.loads(line)
        body = requests.read(request["bytes"])
        say("read")  # what goes wrong from here on is the page's doing
        signal.setitimer(signal.ITIMER_REAL, request["seconds"])
        said = answer(request, body)
        signal.setitimer(signal.ITIMER_REAL, 0)
        say(said)


def main() -> None:
    """Limits this process, then serves."""
    for name, value in _LIMITS.items():
        number = getattr(resource, name)
        hard = resource.getrlimit(number)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(number, (value, value))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the terminal is for whoever started this
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
