"""What code under run_python_code cannot do.

These try real things against this machine (a listener on loopback, a file outside the sandbox) after
showing that the same attempt works outside, so that they cannot pass by accident.
"""

import asyncio
import os
import shutil
import socket
import sys
import tempfile
import time
from pathlib import Path

import pytest
from sandboxed import isolated, run, whole

from mirothinker_jax.config import ToolsConfig
from mirothinker_jax.tools import isolation
from mirothinker_jax.tools.executor import ToolExecutor
from mirothinker_jax.tools.sandbox import PROCESSES, RunPython
from mirothinker_jax.tools.spec import Failure, ToolCall


def processes_with(marker):
    """Ids of this machine's processes whose command line holds the marker."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if marker.encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def gone(marker, within_s=5.0):
    end = time.monotonic() + within_s
    while processes_with(marker) and time.monotonic() < end:
        time.sleep(0.02)
    return not processes_with(marker)


def detached(marker):
    """Code that leaves behind a process of its own session, which would outlive a plain kill."""
    return (
        "import subprocess, sys\n"
        f"subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(100)', '{marker}'],"
        " start_new_session=True)\n"
    )


@isolated
def test_detached_grandchildren_die_with_a_finished_call():
    marker = f"grandchild-{os.getpid()}-a"
    assert run(detached(marker) + "print('left')").text == "left"
    assert gone(marker)


@isolated
def test_detached_grandchildren_die_on_timeout_and_are_there_before():
    marker = f"grandchild-{os.getpid()}-b"

    async def main():
        settings = ToolsConfig(deadline_s=4.0)
        async with ToolExecutor([RunPython(settings)], settings, whole) as executor:
            code = detached(marker) + "import time; time.sleep(60)"
            call = ToolCall("tool-python", "run_python_code", {"code_block": code})
            task = asyncio.create_task(executor.execute(call, "e:0.0"))
            end = time.monotonic() + 5
            while not processes_with(marker) and time.monotonic() < end:
                await asyncio.sleep(0.02)
            assert processes_with(marker)
            return await task

    assert asyncio.run(main()).failure is Failure.TOOL_ERROR
    assert gone(marker)


@isolated
def test_cancelling_a_call_kills_its_processes():
    marker = f"grandchild-{os.getpid()}-c"

    async def main():
        settings = ToolsConfig()
        async with ToolExecutor([RunPython(settings)], settings, whole) as executor:
            code = detached(marker) + "import time; time.sleep(60)"
            call = ToolCall("tool-python", "run_python_code", {"code_block": code})
            task = asyncio.create_task(executor.execute(call, "e:0.0"))
            end = time.monotonic() + 5
            while not processes_with(marker) and time.monotonic() < end:
                await asyncio.sleep(0.02)
            assert processes_with(marker)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())
    assert gone(marker)


@isolated
def test_no_network():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        socket.create_connection(address, 2).close()  # it can be reached from outside the sandbox
        listener.accept()[0].close()
        result = run(f"import socket; socket.create_connection({address!r}, 2)")
    assert result.failure is Failure.TOOL_ERROR
    assert "ConnectionRefusedError" in result.text or "unreachable" in result.text
    interfaces = run("import socket; print([name for _, name in socket.if_nameindex()])")
    assert interfaces.text == "['lo']"


@isolated
def test_no_host_files():
    folder = Path(tempfile.mkdtemp())
    try:
        secret = folder / "secret"
        secret.write_text("secret")
        secret.chmod(0o644)
        folder.chmod(0o755)
        paths = [
            str(secret),
            "/etc/passwd",
            "/etc/hostname",
            str(Path(__file__)),
            str(Path.home() / ".bashrc"),
        ]
        assert all(Path(p).exists() for p in paths[:2])
        result = run(f"import os; print([p for p in {paths!r} if os.path.exists(p)])")
    finally:
        shutil.rmtree(folder)
    assert result.text == "[]"
    # Where the interpreter lives below /tmp, the first folder on its way is seen, and nothing else.
    in_tmp = [Path(sys.prefix).relative_to("/tmp").parts[0]] if sys.prefix.startswith("/tmp/") else []
    assert run("import os; sorted(os.listdir('/tmp'))").text == repr(in_tmp)


@isolated
def test_no_rights():
    result = run(
        "import os, glob\n"
        "print(os.getuid(), os.getgid(), os.getpid() < 10, len(glob.glob('/proc/[0-9]*')) < 10)\n"
        "for line in open('/proc/self/status'):\n"
        "    if line.startswith(('CapEff', 'CapBnd', 'NoNewPrivs')):\n"
        "        print(line.split()[1].lstrip('0') or '0')\n"
        "print(sorted(os.environ))\n"
    )
    rights = result.text.splitlines()
    assert rights[0] == "65534 65534 True True"
    assert rights[1:4] == ["0", "0", "1"]
    assert set(eval(rights[4])) <= {*isolation.ENVIRONMENT, "PWD", "LC_CTYPE"}


@isolated
def test_read_only_but_for_its_own_folders():
    result = run(
        "import os, sys, tempfile\n"
        "home = os.path.expanduser('~')\n"
        "for folder in ('/', '/usr/lib', '/etc', sys.base_prefix, sys.prefix, '/dev/shm', '/tmp', home):\n"
        "    try: tempfile.TemporaryFile(dir=folder).close(); print(folder)\n"
        "    except OSError: pass\n"
    )
    assert set(result.text.split()) <= {"/tmp", "/home/user", "/dev/shm"}
    assert {"/tmp", "/home/user"} <= set(result.text.split())


@isolated
def test_scratch_space_is_limited():
    code = (
        "import os\n"
        "total = 0\n"
        "try:\n"
        "    for i in range(200):\n"
        "        with open(f'{i}', 'wb') as f: total += f.write(bytes(2**20))\n"
        "except OSError as error: print(type(error).__name__, total <= 64 * 2**20)\n"
    )
    assert run(code).text == "OSError True"


@isolated
def test_processes_are_limited():
    code = (
        "import os, time\n"
        "made = 0\n"
        "try:\n"
        "    while made < 500:\n"
        "        if os.fork() == 0: time.sleep(5); os._exit(0)\n"
        "        made += 1\n"
        "except OSError as error: print(type(error).__name__, made)\n"
    )
    name, made = run(code).text.split()
    assert name == "BlockingIOError"
    assert PROCESSES // 2 < int(made) <= PROCESSES


@isolated
def test_no_further_user_namespaces():
    result = run(
        "import subprocess\n"
        "subprocess.run(['unshare', '--user', 'true'], capture_output=True).returncode != 0\n"
    )
    assert result.text == "True"
