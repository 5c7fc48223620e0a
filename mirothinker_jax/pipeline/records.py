"""What a phase computes once, from parameters that are gone later: a reference's log-probs, in one file whatever the
number of processes. Needs a file system that all share.
"""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from mirothinker_jax.data.atomic import replacing
from mirothinker_jax.data.packing import digest_of_rows
from mirothinker_jax.parallel.processes import all_processes, barrier
from mirothinker_jax.types import Batch


def read_or_fill(path: Path, batch: Batch, fill: Callable[[Batch], Batch]) -> Batch:
    """The batch (numpy, the same on every process) with the `ref_logprobs` in `path`; where it has none for these very
    rows, or is damaged, with those of fill(batch), which are kept there."""
    rows = digest_of_rows(batch)
    logprobs = _read_logprobs(path, rows)
    if all_processes(logprobs is not None):
        return dataclasses.replace(batch, ref_logprobs=logprobs)
    filled = fill(batch)
    if jax.process_index() == 0:
        with replacing(path) as scratch, scratch.open("wb") as file:
            np.savez(file, rows=rows, ref_logprobs=filled.ref_logprobs)
    barrier(f"filled {path}")
    return filled


def _read_logprobs(path: Path, rows: str) -> np.ndarray | None:
    """What is kept for the rows of this digest."""
    try:
        with path.open("rb") as file, np.load(file) as kept:
            return kept["ref_logprobs"] if str(kept["rows"]) == rows else None
    except (FileNotFoundError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
        return None
