"""Sampled episodes that a phase needs once, kept in one file whatever the number of processes.

The file is there or it is not, for all processes alike: sampling gathers the parameters from all of them, so
one that found the file while another did not would wait forever. Needs a file system that all share.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax

from mirothinker_jax.parallel.processes import all_processes, barrier
from mirothinker_jax.trajectory import store
from mirothinker_jax.trajectory.types import Trajectory


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
