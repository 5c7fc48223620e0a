"""What a phase computes once, from parameters that are gone later: sampled episodes and a reference's log-probs, each
kept in one file whatever the number of processes.

The file is there or it is not, for all processes alike: sampling gathers the parameters from all of them, so
one that found the file while another did not would wait forever. Needs a file system that all share.
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
from mirothinker_jax.trajectory import store
from mirothinker_jax.trajectory.types import Trajectory
from mirothinker_jax.types import Batch


def read_or_sample(path: Path, sample: Callable[[int, int], list[Trajectory]]) -> list[Trajectory]:
    """The episodes in `path`. Where it is not there yet, each process samples its share, sample(index, count),
    and the first one puts the shares together."""
    index, count = jax.process_index(), jax.process_count()
    if not all_processes(path.exists()):
        store.write(store.share(path, index, count), sample(index, count))
        barrier(f"sampled {path}")
        if index == 0 and count > 1:
            shares = [store.share(path, i, count) for i in range(count)]
            store.write(path, (t for part in shares for t in store.read(part)))
            for part in shares:
                part.unlink()
        barrier(f"put together {path}")
    return list(store.read(path))


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
