"""What goes wrong where checkpoints are stored, as an OSError of one line.

TensorStore raises ValueError, whatever the cause, with a description of many clauses, and Orbax passes it on from its
threads.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

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
