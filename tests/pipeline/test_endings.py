"""A run that is stopped, or whose disk is full: one line and an exit code."""

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mirothinker_jax import train
from mirothinker_jax.pipeline import run as pipeline
from mirothinker_jax.pipeline.endings import STORAGE, one_line_endings, storage_failure

ROOT = Path(__file__).resolve().parents[2]
# {} is what the main thread does.
PROGRAM = """
import ctypes, signal, sys, threading, time
from pathlib import Path
from mirothinker_jax.pipeline.endings import one_line_endings
from mirothinker_jax.pipeline.lock import RunLock

# A shell's background job is told to ignore Ctrl-C, and tests may run in one.
signal.signal(signal.SIGINT, signal.default_int_handler)

def deaf():
    # Locks a mutex twice: like a compilation, a call that does not come back when a signal arrives.
    mutex, lock = ctypes.create_string_buffer(64), ctypes.CDLL(None).pthread_mutex_lock
    lock(mutex)
    print("ready", flush=True)
    lock(mutex)

def fail(error):
    raise error

with one_line_endings(), RunLock(Path(sys.argv[1])):
    threading.Thread(target=time.sleep, args=(60,)).start()
    {}
"""


def start(folder, main):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(main), str(folder)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_a_signal_ends_a_run_wherever_it_is(tmp_path, number):
    """A main thread inside of a call, other threads: nothing is waited for, and the folder is free again."""
    with start(tmp_path, "deaf()") as run:
        assert run.stdout.readline() == "ready\n"
        run.send_signal(number)
        _, err = run.communicate(timeout=10)
    assert (run.returncode, err) == (
        128 + number,
        f"stopped by {number.name}; the same command resumes the run\n",
    )
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_that_a_thread_meets(tmp_path):
    """TensorBoard's writer is one; the main thread would wait for it forever."""
    error = "fail, args=(OSError(28, 'No space left on device', 'events'),)"
    with start(tmp_path, f"threading.Thread(target={error}).start(); deaf()") as run:
        _, err = run.communicate(timeout=10)
    assert run.returncode == STORAGE
    (line,) = err.splitlines()
    assert line.startswith("error: events: No space left on device; ") and "the same command resumes" in line


def test_outside_of_a_run_everything_is_as_it_was(monkeypatch):
    def state():
        return [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)], threading.excepthook

    before, threads = state(), threading.active_count()
    with one_line_endings():
        assert state() != before
    assert state() == before and threading.active_count() == threads
    with monkeypatch.context() as patch:
        patch.setattr(signal, "getsignal", lambda _: signal.SIG_IGN)  # nohup, a script's background job
        patch.setattr(signal, "signal", lambda *_: pytest.fail("a signal that was ignored is heard"))
        with one_line_endings():
            pass


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "run/metrics.jsonl")


def caused(error, by):
    try:
        raise error from by
    except Exception as raised:
        return raised


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (FULL, "run/metrics.jsonl: No space left on device; nothing is lost but"),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), "Disk quota exceeded; nothing is lost but"),
        (ExceptionGroup("tasks", [KeyError("x"), FULL]), "run/metrics.jsonl: No space left on device; "),
        (caused(RuntimeError("while saving"), FULL), "run/metrics.jsonl: No space left on device; "),
        (
            ValueError(
                "RESOURCE_EXHAUSTED: Error writing local file: No space left on device [os_error_code='28']"
            ),
            "No space left on device; nothing is lost but",
        ),
        (PermissionError(errno.EACCES, "", "run/dpo"), "run/dpo: Permission denied; mend that, and the same"),
        (OSError(errno.EACCES, "a socket, not a file"), None),
        (FileNotFoundError(errno.ENOENT, "", "run/dpo"), None),
        (KeyError("x"), None),
    ],
)
def test_what_is_about_storage(error, expected):
    said = storage_failure(error)
    if expected and error.args[0] == errno.EDQUOT:
        assert storage_failure(error, "run") == f"run: {said}"
    assert said is None if expected is None else (said.startswith(expected) and "\n" not in said)


def test_the_command_when_the_disk_is_full(tmp_path, monkeypatch, capfd):
    def full(*_):
        raise caused(RuntimeError("a long\nstory"), FULL)

    monkeypatch.setattr(pipeline, "run", full)
    config = str(ROOT / "configs" / "toy" / "smoke.py")
    assert train.main(["--config", config, f"--config.run_dir={tmp_path}"]) == STORAGE
    out, err = capfd.readouterr()
    assert out == "" and err.startswith("error: run/metrics.jsonl: No space left") and err.count("\n") == 1
