"""A control group for each sandbox: memory and processes of all that runs in it, counted and limited by the kernel.

Needs cgroup v2 and a group that this user may divide and whose memory and pids controllers are handed on to groups
inside it: the group of this process where it is one; else the one above it (as under a systemd user session), where
this process's own has no limits; or the one that tools.sandbox_cgroup names. A system's root group, a container's
writable one and a delegated unit (`systemd-run --user -p Delegate=yes`) can be. Elsewhere sandbox_watch.py counts.

A process that is killed leaves empty groups behind, which use nothing; the next one to start removes them.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from pathlib import Path

from mirothinker_jax.config import check

_CONTROLLERS = {"memory", "pids"}
_NAME = re.compile(r"mirothinker-(\d+)-\d+")
_numbers = itertools.count()


def find_parent(wanted: str) -> Path | None:
    """The group to make sandboxes' groups in; None where there is none.

    Args:
      wanted: that of the settings; "" looks for one.

    Raises:
      ConfigError: the wanted one cannot be used.
    """
    if wanted:
        parent = Path(wanted)
        check(
            _usable(parent),
            f"tools.sandbox_cgroup is {wanted!r}, in which this user cannot make groups with the controllers memory "
            "and pids; hand them on (cgroup.subtree_control), delegate the group, or leave the setting out",
        )
        return parent
    own = _own_group()
    if own is None:
        return None
    if _usable(own):
        return own
    # Beside this process's group, if that has no limit which sandboxes would get out of.
    return own.parent if _unlimited(own) and _usable(own.parent) else None


class Group:
    """The group of one sandbox."""

    def __init__(self, parent: Path, memory_bytes: int, processes: int):
        """Makes it. Raises OSError where it cannot be made."""
        self._path = parent / f"mirothinker-{os.getpid()}-{next(_numbers)}"
        self._path.mkdir()
        try:
            for name, value in (
                ("memory.max", memory_bytes),
                ("pids.max", processes),
                ("memory.oom.group", 1),
            ):
                (self._path / name).write_text(str(value))
            with contextlib.suppress(OSError):  # where the kernel does not count swap
                (self._path / "memory.swap.max").write_text("0")
        except OSError:
            self.remove()
            raise

    def entering(self, command: list[str]) -> list[str]:
        """`command`, to be started so that it and all that it starts are in the group."""
        enter = 'echo $$ > "$0" && exec "$@"'
        return ["/bin/sh", "-c", enter, str(self._path / "cgroup.procs"), *command]

    def ran_out_of_memory(self) -> bool:
        with contextlib.suppress(OSError):
            events = dict(line.split() for line in (self._path / "memory.events").read_text().splitlines())
            return int(events.get("oom_kill", 0)) > 0
        return False

    def kill(self) -> None:
        """Ends every process in it."""
        with contextlib.suppress(OSError):  # before Linux 5.14; bubblewrap ends them, too
            (self._path / "cgroup.kill").write_text("1")

    def remove(self) -> bool:
        """Whether it is gone; it is not while processes in it are still ending."""
        with contextlib.suppress(OSError):
            self._path.rmdir()
        return not self._path.exists()


def _own_group() -> Path | None:
    try:
        groups = Path("/proc/self/cgroup").read_text("utf-8").splitlines()
        mounts = Path("/proc/self/mountinfo").read_text("utf-8").splitlines()
    except OSError:
        return None
    inside = next((line[3:] for line in groups if line.startswith("0::")), None)
    for line in mounts:
        left, _, right = line.partition(" - ")
        if right.startswith("cgroup2 ") and inside is not None:
            root, where = left.split()[3:5]
            return Path(where) / os.path.relpath(inside, root) if inside.startswith(root) else None
    return None


def _unlimited(group: Path) -> bool:
    try:
        return all((group / name).read_text("ascii").strip() == "max" for name in ("memory.max", "pids.max"))
    except OSError:
        return False


def _usable(parent: Path) -> bool:
    """Whether a group with limits can be made there and removed again. Removes those that others left behind."""
    try:
        if not set((parent / "cgroup.subtree_control").read_text("ascii").split()) >= _CONTROLLERS:
            return False
        for folder in parent.iterdir():
            owner = _NAME.fullmatch(folder.name)
            if owner and not Path(f"/proc/{owner[1]}").exists():
                with contextlib.suppress(OSError):
                    folder.rmdir()
        # Entering a group takes the right to write to this one, too.
        if not os.access(parent / "cgroup.procs", os.W_OK):
            return False
        Group(parent, 1 << 30, 64).remove()
    except OSError:
        return False
    return True
