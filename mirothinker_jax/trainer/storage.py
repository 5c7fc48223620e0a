"""What goes wrong where checkpoints are stored, as an OSError of one line.

TensorStore raises ValueError, whatever the cause, with a description of many clauses, and Orbax passes it on from its
threads. Imports no jax: commands use it before they start.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_CODE = re.compile(r"\[os_error_code='(\d+)'")


@contextlib.contextmanager
def storage_errors(folder: Path) -> Iterator[None]:
    """Raises OSError, which names `folder` or a file in it, for a ValueError of the block.

    With the system's errno (28: no space is left) where there is one.
    """
    try:
        yield
    except OSError as error:
        if error.filename or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(folder)) from None
    except ValueError as error:
        if code := _CODE.search(str(error)):
            number = int(code[1])
            raise OSError(number, os.strerror(number), str(folder)) from None
        raise OSError(f"{folder}: {str(error).partition(' [')[0]}") from None


@contextlib.contextmanager
def ignore_late_writes() -> Iterator[None]:
    """Within the block nothing is said of writes that end, well or not, after another one of their step has failed.

    Orbax has closed the event loop that they report to by then, and each would print a traceback; the failure itself is
    raised.
    """
    before, log = sys.unraisablehook, logging.getLogger("asyncio")

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    def wanted(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return not (isinstance(error, ValueError) and "Error writing" in str(error))  # TensorStore's

    sys.unraisablehook = hook
    log.addFilter(wanted)
    try:
        yield
    finally:
        sys.unraisablehook = before
        log.removeFilter(wanted)
