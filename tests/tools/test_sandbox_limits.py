"""Bombs: what code in the sandbox takes up, of all kinds, and that its limits end it and it alone.

They share a sandbox, and one that kills it is given another.
"""

import os
import time
from pathlib import Path

import pytest
from sandboxed import detached, gone, isolated, processes_with

from mirothinker_jax.tools import isolation, sandbox_watch
from mirothinker_jax.tools.sandbox_interface import OUTPUT_CHARS, SandboxDied
from mirothinker_jax.tools.sandbox_local import PROCESSES

pytestmark = isolated


@pytest.mark.parametrize("folder", isolation.SCRATCH)
def test_disk_bomb(box, folder):
    said = box.python(
        f"""
        import os
        total, path = 0, {folder!r} + '/bomb'
        os.makedirs(path)
        try:
            for i in range(200):
                with open(f'{{path}}/{{i}}', 'wb') as f: total += f.write(bytes(2**20))
        except OSError as error: print(type(error).__name__, total <= 64 * 2**20)
        import shutil; shutil.rmtree(path)
        """
    )
    assert said == "OSError True"


def test_disk_bomb_in_one_file(box):
    said = box.shell("head -c 200M /dev/zero > big; stat -c %s big; rm big").output
    assert int(said.split()[-1]) <= isolation.SCRATCH_BYTES


def test_bomb_of_empty_files(box, monkeypatch):
    monkeypatch.setattr(sandbox_watch, "FILES", 2_000)
    with pytest.raises(SandboxDied, match="more than 2,000 files"):
        box.python("for i in range(10**9): open(str(i), 'w').close()")


def test_number_of_processes(box):
    said = box.python(
        """
        import os, signal, time
        pids = []
        try:
            while len(pids) < 500:
                pid = os.fork()
                if pid == 0: time.sleep(5); os._exit(0)
                pids.append(pid)
        except OSError as error: print(type(error).__name__, len(pids))
        for pid in pids: os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)
        """
    )
    name, made = said.split()
    assert name == "BlockingIOError"
    assert PROCESSES // 2 < int(made) <= PROCESSES


def test_number_of_threads(box):
    said = box.python(
        """
        import threading
        stop = threading.Event()
        try:
            for i in range(500): threading.Thread(target=stop.wait).start()
        except RuntimeError: print('refused', i <= 64)
        stop.set()
        """
    )
    assert said == "refused True"


def test_fork_bomb(box):
    marker = f"bomb-{os.getpid()}"
    execution = box.shell(f"b() {{ b {marker} | b {marker} & }}; b; sleep 0.3", 1.0)
    assert len(processes_with(marker)) <= PROCESSES
    assert execution.timed_out or execution.exit_code is not None
    # A bomb goes off in every call, as nothing tells it from a process in the background; killing ends it.
    box.use(lambda sandbox: sandbox.kill())
    assert gone(marker)


@pytest.mark.parametrize(
    "memory",
    ["bytearray(10**8)", "bytearray(10**8); import mmap; mmap.mmap(-1, 10**8).write(x)"],
    ids=["private", "shared"],
)
def test_memory_bomb_of_all_processes_together(box, memory):
    # Each of them within the limit of a process, all of them over the limit of the sandbox.
    code = f"import os, time\nfor _ in range(5):\n  if os.fork() == 0: x = {memory}; time.sleep(5)\ntime.sleep(5)"
    start = time.monotonic()
    with pytest.raises(SandboxDied, match="more than 256 MiB of memory together"):
        box.python(code)
    assert time.monotonic() - start < 4.0


def test_what_forks_share_is_counted_once(box):
    said = box.python(
        """
        import os, time
        x = bytearray(10**8)
        for _ in range(5):
            if os.fork() == 0: time.sleep(0.3); os._exit(0)
        time.sleep(0.3); del x
        print('fine')
        """
    )
    assert said == "fine"


def test_detached_processes_are_stopped_between_calls_and_die_with_the_sandbox(box):
    marker = f"grandchild-{os.getpid()}-a"
    assert box.python(detached(marker) + "print('left')") == "left"
    (pid,) = processes_with(marker)
    end = time.monotonic() + 5
    while " T " not in Path(f"/proc/{pid}/stat").read_text():
        assert time.monotonic() < end, "it runs on"
    box.use(lambda sandbox: sandbox.kill())
    assert gone(marker)


def test_detached_processes_die_with_code_that_ran_out_of_time(box):
    marker = f"grandchild-{os.getpid()}-b"
    code = detached(marker) + "print('left', flush=True); import time; time.sleep(60)"
    assert box.use(lambda sandbox: sandbox.run_code(code, 1.0)).output == "left\n"
    assert gone(marker) and box.sandbox.alive


@pytest.mark.parametrize(
    "flood",
    ["yes | head -c 50M", "yes", "cat /dev/zero", "yes & yes"],
    ids=["huge", "endless", "nulls", "two"],
)
def test_output(box, flood):
    execution = box.shell(flood, 10.0 if "head" in flood else 0.3)
    assert execution.cut and len(execution.output) == OUTPUT_CHARS
    assert execution.timed_out == ("head" not in flood)


def test_output_goes_on_in_the_background(box):
    assert box.shell("yes & echo done").exit_code == 0
    assert box.shell("echo next").output == "next\n"
    box.use(lambda sandbox: sandbox.kill())


def test_output_that_is_no_text(box):
    said = box.python(
        r"""import os; _ = os.write(1, b'\xff\x00\n{"exit_code": 0}\n\xe2\x82'); print('\ud800')"""
    )
    assert said == '\ufffd\x00\n{"exit_code": 0}\n\ufffd?'
    assert box.python("'\ud800'").splitlines()[-1].endswith(("'\\ud800'", "surrogates not allowed"))
