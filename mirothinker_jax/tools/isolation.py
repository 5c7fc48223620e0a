"""The command that starts a process which can see nothing and reach nobody: bubblewrap.

Inside: no network, process ids of its own, no capabilities, no further user namespaces, read-only
system libraries and Python (with the packages installed beside it), everything else an empty memory
file system of limited size. No file of the host that is not part of those can be seen.

Run as root, the process must first become another user, as the kernel does not limit root's processes.
That user may be unable to read a Python below /root, so an outer bubblewrap, still root, shows it that
folder at another place; the inner one is what isolates.

Not safe: the sum of the memory of all processes is not limited (only that of each), nor is what they
read from the system libraries. The kernel's own interface is open but for what bubblewrap closes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from mirothinker_jax.config import ConfigError

HOME = "/home/user"
SCRATCH_BYTES = 64 * 1024 * 1024  # of each of /tmp and the home folder
_NOBODY = 65534
_RELAY = "/mnt"  # where the outer bubblewrap shows Python's folders to the inner one
_PROBE_S = 20.0

ENVIRONMENT = {
    "HOME": HOME,
    "LANG": "C.UTF-8",
    "PATH": "/usr/bin:/bin",
    "OPENBLAS_NUM_THREADS": "1",  # one thread's stack per core would fill the address space
    "OMP_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}


def isolated_command(program: list[str]) -> list[str]:
    """Wraps `program`, a Python interpreter and its arguments.

    Raises:
      ConfigError: a tool is missing on this machine, with what to install.
    """
    bwrap = _require("bwrap", "bubblewrap")
    folders = sorted({sys.base_prefix, sys.prefix})
    sources = {folder: folder for folder in folders}
    outer: list[str] = []
    if os.geteuid() == 0:
        setpriv = _require("setpriv", "util-linux")
        sources = {folder: f"{_RELAY}/{i}" for i, folder in enumerate(folders)}
        capabilities = [a for c in ("SETUID", "SETGID") for a in ("--cap-add", f"CAP_{c}")]
        outer = [bwrap, "--die-with-parent", "--cap-drop", "ALL", *capabilities]
        outer += ["--dev-bind", "/", "/", "--tmpfs", _RELAY]
        outer += [a for folder, shown in sources.items() for a in ("--ro-bind", folder, shown)]
        outer += [setpriv, "--reuid", str(_NOBODY), "--regid", str(_NOBODY), "--clear-groups"]
        # Becoming another user clears the wish to die with the parent: renewed here.
        outer += ["--no-new-privs", "--pdeathsig", "KILL"]
    inner = [bwrap, "--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent"]
    inner += ["--new-session", "--uid", str(_NOBODY), "--gid", str(_NOBODY), "--hostname", "sandbox"]
    inner += ["--cap-drop", "ALL", "--clearenv"]
    inner += [a for name, value in ENVIRONMENT.items() for a in ("--setenv", name, value)]
    inner += ["--proc", "/proc", "--dev", "/dev"]
    for folder in ("/tmp", HOME):
        inner += ["--size", str(SCRATCH_BYTES), "--tmpfs", folder]
    inner += _system_folders()
    inner += [a for folder, source in sources.items() for a in ("--ro-bind", source, folder)]
    return [*outer, *inner, "--remount-ro", "/", "--chdir", HOME, *program]


def _require(program: str, package: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise ConfigError(
            f"run_python_code needs {program}: install it (apt-get install {package}), leave the tool out of "
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


def probe(command: list[str]) -> None:
    """Starts `command` (an isolated one that ends when its input does) once.

    Raises:
      ConfigError: it does not run here, for example because the system forbids user namespaces.
    """
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PROBE_S, check=False
        )
        failed, said = done.returncode != 0, done.stderr.decode(errors="replace")
    except subprocess.TimeoutExpired:
        failed, said = True, f"no end after {_PROBE_S:g} s"
    if failed:
        raise ConfigError(
            f"run_python_code: bubblewrap does not work here ({' '.join(said.split())[:200]}); allow user "
            "namespaces, leave the tool out of tools.names, or set tools.unsafe_sandbox=True (no isolation)"
        )
