"""The command that starts a process which can see nothing and reach nobody: bubblewrap.

Inside: no network, process ids of its own, no capabilities, no further namespaces, read-only system libraries and
Python (with the packages installed beside it), everything else an empty memory file system of limited size. No file
of the host that is not part of those can be seen. A filter refuses the system calls that a program of this kind does
not need (system_calls.py).

Run as root, the process must first become another user, as the kernel does not limit root's processes. That user may be
unable to read a Python below /root, so it is shown that folder at another place, in a mount namespace of its own. No
process that stays is in between: one without rights over another user could not take it along when it is killed.

Memory and processes of the whole sandbox are limited elsewhere (cgroup.py, sandbox_watch.py). Not safe: a fault in
the kernel behind a system call that the filter lets through, as everywhere where processes share a kernel.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from mirothinker_jax.config import ConfigError
from mirothinker_jax.tools.sandbox_interface import HOME

SCRATCH = ("/tmp", HOME, "/dev/shm")
SCRATCH_BYTES = 64 * 1024 * 1024  # of each of them
_NOBODY = 65534
_RELAY = "/mnt"  # where root shows Python's folders to another user
_PROBE_S = 20.0

ENVIRONMENT = {
    "HOME": HOME,
    "LANG": "C.UTF-8",
    "PATH": "/usr/bin:/bin",
    "OPENBLAS_NUM_THREADS": "1",  # one thread's stack per core would fill the address space
    "OMP_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}


def isolated_command(program: list[str], filter_fd: int | None = None) -> list[str]:
    """Wraps `program`, a Python interpreter and its arguments.

    Args:
      filter_fd: a descriptor to inherit, from which bubblewrap reads a filter of system calls.

    Raises:
      ConfigError: a tool is missing on this machine, with what to install.
    """
    bwrap = _require("bwrap", "bubblewrap")
    folders = sorted({sys.base_prefix, sys.prefix})
    sources = {folder: folder for folder in folders}
    outer: list[str] = []
    if os.geteuid() == 0:
        unshare, setpriv = (_require(program, "util-linux") for program in ("unshare", "setpriv"))
        sources = {folder: f"{_RELAY}/{i}" for i, folder in enumerate(folders)}
        steps = [f"mount -t tmpfs -o size=64k,mode=0755 relay {_RELAY}"]
        for folder, shown in sources.items():
            steps += [f"mkdir {shown}", f"mount --bind {shlex.quote(folder)} {shown}"]
        outer = [unshare, "--mount", "/bin/sh", "-c", " && ".join([*steps, 'exec "$@"']), "sh"]
        outer += [setpriv, "--reuid", str(_NOBODY), "--regid", str(_NOBODY), "--clear-groups"]
        # Becoming another user clears the wish to die with the parent, so it is said after that.
        outer += ["--inh-caps=-all", "--no-new-privs", "--pdeathsig", "KILL"]
    # The program is process 1 itself: bubblewrap's own would be one whose memory the code can write to.
    inner = [bwrap, "--unshare-all", "--as-pid-1", "--unshare-user", "--disable-userns", "--die-with-parent"]
    inner += ["--new-session", "--uid", str(_NOBODY), "--gid", str(_NOBODY), "--hostname", "sandbox"]
    inner += ["--cap-drop", "ALL", "--clearenv"]
    inner += [a for name, value in ENVIRONMENT.items() for a in ("--setenv", name, value)]
    inner += ["--proc", "/proc", "--dev", "/dev"]
    for folder in SCRATCH:
        inner += ["--size", str(SCRATCH_BYTES), "--tmpfs", folder]
    inner += _system_folders()
    inner += [a for folder, source in sources.items() for a in ("--ro-bind", source, folder)]
    # Bubblewrap's /dev is a memory file system, too, of no size of its own: nothing may be written there.
    inner += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", HOME]
    if filter_fd is not None:
        inner += ["--seccomp", str(filter_fd)]
    return [*outer, *inner, *program]


def _require(program: str, package: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise ConfigError(
            f"the sandbox needs {program}: install it (apt-get install {package}), leave its tools out of "
            "tools.names, or set tools.unsafe_sandbox=True to run a model's code without any isolation"
        )
    return path


def _system_folders() -> list[str]:
    """Libraries and programs; where /lib and its like are links into /usr, as links."""
    arguments = []
    for folder in ("/usr/bin", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/share/zoneinfo"):
        arguments += ["--ro-bind-try", folder, folder]
    for folder in ("/bin", "/lib", "/lib32", "/lib64"):
        path = Path(folder)
        if path.is_symlink():
            arguments += ["--symlink", str(path.readlink()), folder]
        elif path.is_dir():
            arguments += ["--ro-bind", folder, folder]
    # Debian's BLAS is reached through the first; the loader finds libraries by the second.
    for file in ("/etc/alternatives", "/etc/ld.so.cache"):
        arguments += ["--ro-bind-try", file, file]
    return arguments


def probe(command: list[str], said: bytes, inherited: tuple[int, ...] = ()) -> None:
    """Starts `command` once, which ends when its input does: `said`. Inherits the descriptors.

    Raises:
      ConfigError: it does not run here, for example because the system forbids user namespaces.
    """
    try:
        done = subprocess.run(
            command,
            input=said,
            capture_output=True,
            timeout=_PROBE_S,
            check=False,
            pass_fds=inherited,
        )
        failed, reason = done.returncode != 0, done.stderr.decode(errors="replace")
    except subprocess.TimeoutExpired:
        failed, reason = True, f"no end after {_PROBE_S:g} s"
    if failed:
        raise ConfigError(
            f"the sandbox: bubblewrap does not work here ({' '.join(reason.split())[:200]}); allow user "
            "namespaces, leave its tools out of tools.names, or set tools.unsafe_sandbox=True (no isolation)"
        )
