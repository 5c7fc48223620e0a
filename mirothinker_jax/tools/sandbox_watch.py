"""What the processes of a sandbox use together, read from /proc of the host, for machines without a cgroup to use.

The code in the sandbox cannot change what is counted, as the counting is done outside. A process that starts others
and allocates can go over the limit for the length of one look: tens of milliseconds. Not counted: memory of the kernel
itself (buffers of sockets and pipes, page tables), and shared memory that no process has in its page tables. Only a
cgroup (cgroup.py) counts those; here the numbers of processes and of open files limit them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mirothinker_jax.tools.isolation import SCRATCH

LOOK_S = 0.05
FILES = 20_000  # in all folders for scratch: the size of a memory file system does not count empty files


def excess(pid: int, memory_bytes: int) -> str | None:
    """What the sandbox that process `pid` started has too much of; None where it keeps within its limits."""
    found = list(_descendants(pid))
    used = sum(process.memory for process in found)
    # Looked at twice: while processes fork, what they share can be read before and after.
    if used > memory_bytes and all(sum(map(_share_of_memory, found)) > memory_bytes for _ in range(2)):
        return too_much_memory(memory_bytes)
    for process in found:
        if not process.is_runner:
            continue
        files = sum(_files(f"/proc/{process.id}/root{folder}") for folder in SCRATCH)
        if files > FILES:
            return f"it had more than {FILES:,} files"
    return None


def too_much_memory(memory_bytes: int) -> str:
    """What the model is told."""
    return f"its processes used more than {memory_bytes >> 20:,} MiB of memory together"


@dataclass(frozen=True)
class _Process:
    id: int
    is_runner: bool  # the first in a process namespace of its own
    memory: int  # bytes that are no file's; what a fork shares with its parent counts for both


def _descendants(pid: int) -> Iterator[_Process]:
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                for child in map(int, (thread / "children").read_text("ascii").split()):
                    with contextlib.suppress(OSError):
                        yield _process(child)
                    yield from _descendants(child)


def _process(pid: int) -> _Process:
    lines = (
        line.partition(":") for line in Path(f"/proc/{pid}/status").read_text("utf-8", "replace").split("\n")
    )
    said = {key: value.split() for key, _, value in lines}
    memory = sum(
        int(said[key][0]) for key in ("RssAnon", "RssShmem") if key in said
    )  # one that ended has none
    names = said["NSpid"]  # from this namespace down to its own
    return _Process(pid, len(names) > 1 and names[-1] == "1", memory << 10)


def _share_of_memory(process: _Process) -> int:
    """Its memory, what is shared counted once in all; slower. All of it where that may not be read."""
    try:
        lines = Path(f"/proc/{process.id}/smaps_rollup").read_text("ascii").splitlines()
    except OSError:
        return process.memory
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))


def _files(folder: str) -> int:
    try:
        space = os.statvfs(folder)
    except OSError:
        return 0
    return space.f_files - space.f_ffree
