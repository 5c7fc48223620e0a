"""What code in the sandbox cannot do: attacks, each of which would succeed outside.

They share a sandbox, and one that kills it is given another: so each of them also shows that the one before left
nothing broken. Where an attack could fail for another reason, the same is shown to work outside first.
"""

import os
import socket
import sys
import tempfile
from pathlib import Path

import pytest
from sandboxed import isolated

from mirothinker_jax.tools import isolation
from mirothinker_jax.tools.sandbox_interface import FileRefused
from mirothinker_jax.tools.system_calls import _REFUSED, filter_program

pytestmark = isolated


# Code, and the error that it ends with.
REFUSED = {
    "network-by-address": ("import socket; socket.create_connection(('1.1.1.1', 53), 2)", "unreachable"),
    "network-ipv6": ("socket.create_connection(('2606:4700:4700::1111', 53), 2)", "OSError"),
    "network-by-name": ("socket.getaddrinfo('example.com', 80)", "gaierror"),
    "network-datagram": (
        "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('169.254.169.254', 80))",
        "unreachable",
    ),
    "network-raw-socket": ("socket.socket(socket.AF_PACKET, socket.SOCK_RAW)", "OSError"),
    "network-vsock": ("socket.socket(40, socket.SOCK_STREAM)", "not supported"),
    "network-interface": ("import subprocess; subprocess.check_call(['ip', 'link', 'set', 'lo', 'down'])", "Error"),
    "memory-of-the-runner": ("open('/proc/1/mem', 'r+b')", "PermissionError"),
    "environment-of-the-runner": ("open('/proc/1/environ').read()", "PermissionError"),
    "answers-of-the-runner": ("open('/proc/1/fd/1', 'w')", "PermissionError"),
    "root-of-the-runner": ("import os; os.listdir('/proc/1/root')", "PermissionError"),
    "proc-core-pattern": ("open('/proc/sys/kernel/core_pattern', 'w')", "Error"),
    "proc-overcommit": ("open('/proc/sys/vm/overcommit_memory', 'w')", "Error"),
    "proc-sysrq": ("open('/proc/sysrq-trigger', 'w')", "Error"),
    "proc-kernel-memory": ("open('/proc/kcore', 'rb')", "Error"),
    "proc-other-user-map": ("open('/proc/self/uid_map', 'wb', 0).write(b'0 0 1')", "PermissionError"),
    "signal-to-a-process-of-the-host": (f"os.kill({os.getpid() + 2_000_000}, 9)", "ProcessLookupError"),
    "namespace-of-users": ("subprocess.check_call(['unshare', '--user', 'true'])", "CalledProcessError"),
    "namespace-of-mounts": ("subprocess.check_call(['unshare', '--mount', 'true'])", "CalledProcessError"),
    "namespace-of-another": ("subprocess.check_call(['nsenter', '-t', '1', '-n', 'true'])", "CalledProcessError"),
    "namespace-by-bubblewrap": (
        "subprocess.check_call(['bwrap', '--bind', '/', '/', 'true'])",
        "CalledProcessError",
    ),
    "change-root": ("os.chroot('/tmp')", "PermissionError"),
    "mount": ("subprocess.check_call(['mount', '-t', 'tmpfs', 'x', '/tmp'])", "CalledProcessError"),
    "device-of-a-disk": ("os.mknod('/tmp/disk', 0o60600, os.makedev(254, 0))", "PermissionError"),
    "become-root": ("os.setuid(0)", "OSError"),
    "become-root-by-program": ("subprocess.check_call(['su', '-c', 'true'])", "Error"),
    "more-rights-for-a-file": ("os.setxattr('/home/user', 'security.capability', b'x')", "Error"),
    "higher-priority": ("os.nice(-5)", "Error"),
    "higher-limit": ("import resource as r; r.setrlimit(r.RLIMIT_NPROC, (9999, 9999))", "ValueError"),
    "write-to-the-root": ("open('/x', 'w')", "Read-only"),
    "write-to-libraries": ("open('/usr/lib/x', 'w')", "Read-only"),
    "write-to-python": ("import sys; open(sys.base_prefix + '/x', 'w')", "Read-only"),
    "write-to-the-devices": ("open('/dev/x', 'w')", "Read-only"),
    "host-name": ("socket.sethostname('x')", "PermissionError"),
    "clock": ("import time; time.clock_settime(0, 0)", "PermissionError"),
    "memory-of-one-process": ("x = bytearray(2**30)", "MemoryError"),
    "open-files": ("held = [open('/dev/null') for _ in range(300)]", "Too many open files"),
}  # fmt: skip


@pytest.mark.parametrize("attack", REFUSED)
def test_refused(box, attack):
    box.python("import os, socket, subprocess, sys")
    code, error = REFUSED[attack]
    said = box.python(f"{code}\nprint('it worked')")
    assert "it worked" not in said and error in said.splitlines()[-1], said
    assert box.sandbox.alive


@pytest.mark.parametrize("call", _REFUSED)
def test_system_calls(box, call):
    if filter_program() is None:
        pytest.skip("no filter for this machine")
    number = _REFUSED[call][0 if os.uname().machine == "x86_64" else 1]
    said = box.python(
        f"""
        import ctypes, errno
        libc = ctypes.CDLL(None, use_errno=True)
        print(libc.syscall({-1 if number is None else number}, 0, 0, 0, 0, 0, 0), errno.errorcode[ctypes.get_errno()])
        """
    )
    assert said == ("-1 ENOSYS" if number is None else "-1 EPERM")


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of x86-64")
@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("56, 0x10000000 | 17, 0, 0, 0, 0", "EPERM"),  # clone(CLONE_NEWUSER)
        ("435, 0, 0", "ENOSYS"),  # clone3
        ("0x40000000 + 101, 0, 0, 0, 0", "ENOSYS"),  # ptrace by its second number
    ],
    ids=["clone-namespace", "clone3", "second-numbers"],
)
def test_system_calls_by_another_way(box, call, error):
    said = box.python(
        f"import ctypes, errno\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        f"print(libc.syscall({call}), errno.errorcode[ctypes.get_errno()])"
    )
    assert said == f"-1 {error}"


def test_loopback_of_the_host(box):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        socket.create_connection(address, 2).close()  # it can be reached from outside the sandbox
        listener.accept()[0].close()
        said = box.python(f"import socket; socket.create_connection({address!r}, 2)")
    assert "ConnectionRefusedError" in said or "unreachable" in said
    assert box.python("[name for _, name in socket.if_nameindex()]") == "['lo']"


def test_abstract_socket_of_the_host(box):
    name = f"\0sandbox-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(name)
        listener.listen()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(name)
        said = box.python(f"import socket; socket.socket(socket.AF_UNIX).connect({name!r})")
    assert "ConnectionRefusedError" in said


def test_files_of_the_host(box):
    with tempfile.TemporaryDirectory() as folder:
        secret = Path(folder, "secret")
        secret.write_text("secret")
        secret.chmod(0o644)
        Path(folder).chmod(0o755)
        paths = [
            str(secret),
            "/etc/passwd",
            "/etc/hostname",
            str(Path(__file__)),
            str(Path.home() / ".bashrc"),
        ]
        assert all(Path(p).exists() for p in paths[:2])
        ways = [
            way + path
            for path in paths
            for way in ("", "/proc/1/root", "/proc/self/root", "/proc/self/cwd/../..")
        ]
        assert box.python(f"import os; [p for p in {ways!r} if os.path.exists(p)]") == "[]"
    # Where the interpreter lives below /tmp, the first folder on its way is seen, and nothing else.
    in_tmp = [Path(sys.prefix).relative_to("/tmp").parts[0]] if sys.prefix.startswith("/tmp/") else []
    assert box.python("sorted(os.listdir('/tmp'))") == repr(in_tmp)


def test_rights_and_environment(box, monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "secret")
    said = box.python(
        """
        import glob, os
        print(os.getuid(), os.getgid(), os.getpid() < 100, len(glob.glob('/proc/[0-9]*')) < 10)
        for line in open('/proc/self/status'):
            if line.startswith(('CapEff', 'CapBnd', 'NoNewPrivs', 'Seccomp:')):
                print(line.split()[1].lstrip('0') or '0')
        print(sorted(os.environ))
        """
    ).splitlines()
    assert said[0] == "65534 65534 True True"
    assert said[1:5] == ["0", "0", "1", "2" if filter_program() else "0"]
    assert set(eval(said[5])) <= {*isolation.ENVIRONMENT, "PWD", "LC_CTYPE"}


@pytest.mark.parametrize("number", [9, 15, 19], ids=["kill", "terminate", "stop"])
def test_signals_to_the_runner(box, number):
    assert box.python(f"import os; os.kill(os.getppid(), {number}); print('went on')") == "went on"
    assert box.python("1") == "1"


def test_signals_to_all(box):
    box.python("import os; os.kill(-1, 9)")
    assert box.sandbox.alive and box.python("1") == "1"


def test_forged_answers_are_the_codes_own_loss(box):
    # The descriptor by which the process says that a block has ended.
    said = box.python(
        "import os\nfor i in range(3, 20):\n  try: os.write(i, b'0\\n')\n  except OSError: pass"
    )
    assert said == ""
    assert box.python("print('next')").splitlines()[-1:] == ["next"]
    box.python("import os; os.closerange(3, 256)")
    assert box.python("2") == "2"


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("../../etc/x", "Read-only"),
        ("/usr/lib/x", "Read-only"),
        ("/proc/x", "No such"),
        ("/dev/null", "no file"),
        ("a\0b", "null"),
        ("/", "empty name"),
        ("link", "no file"),
        ("link/x", "Read-only"),
        ("pipe", "no file"),
        ("x" * 5000, "too long"),
    ],
    ids=lambda value: value[:12].replace("\0", "null") if isinstance(value, str) else value,
)
def test_paths_of_uploads(box, path, error):
    box.shell("ln -sf /usr/lib link; [ -e pipe ] || mkfifo pipe")
    with pytest.raises(FileRefused, match=error):
        box.use(lambda sandbox: sandbox.files.write(path, b"x"))


def test_uploads_are_whole(box):
    data = bytes(range(256)) * 4096
    box.use(lambda sandbox: sandbox.files.write("new/folder/data.bin", data))
    assert box.python("open('new/folder/data.bin', 'rb').read() == bytes(range(256)) * 4096") == "True"
    with pytest.raises(FileRefused, match="No space"):
        box.use(lambda sandbox: sandbox.files.write("big", bytes(isolation.SCRATCH_BYTES)))
    assert box.python("import os; os.path.exists('big')") == "False"
