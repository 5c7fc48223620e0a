"""One run at a time in a folder, and folders that cannot be one's."""

import fcntl
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mirothinker_jax.config import ConfigError
from mirothinker_jax.pipeline import lock
from mirothinker_jax.pipeline.lock import NAME, RunLock, release_all

HERE = socket.gethostname()


def refusal(folder):
    with pytest.raises(ConfigError) as error, RunLock(folder):
        pass
    assert "\n" not in str(error.value)
    return str(error.value)


def leave_behind(folder, **owner):
    given = {"host": HERE, "pid": gone(), "since": "2026-01-02 03:04:05 UTC"} | owner
    folder.mkdir()
    (folder / NAME).write_text(json.dumps(given))
    return given


def gone():
    """The id of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_a_second_run_is_refused_until_the_first_has_ended(tmp_path):
    folder = tmp_path / "run"
    with RunLock(folder):
        owner = json.loads((folder / NAME).read_text())
        assert (owner["host"], owner["pid"]) == (HERE, os.getpid())
        assert refusal(folder) == (
            f"config.run_dir: {folder} is in use by process {os.getpid()} on {HERE} since {owner['since']}; "
            "wait until it has ended, stop it, or give another config.run_dir"
        )
        (folder / "something").touch()
    assert [path.name for path in folder.iterdir()] == ["something"]
    with RunLock(folder):
        release_all()
        assert not (folder / NAME).exists()


def test_a_run_that_was_refused_leaves_no_folders(tmp_path):
    with RunLock(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b" / NAME).exists()
    assert list(tmp_path.iterdir()) == []


HOLD = """
import sys
from pathlib import Path
from mirothinker_jax.pipeline.lock import RunLock
with RunLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_lock_of_another_process_and_what_is_left_when_it_is_killed(tmp_path, caplog):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    root = str(Path(__file__).resolve().parents[2])
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": root}
    ) as other:
        assert other.stdout.readline() == b"held\n"
        assert f"in use by process {other.pid} on {HERE} since " in refusal(tmp_path)
        other.kill()
    assert (tmp_path / NAME).exists()
    with RunLock(tmp_path):
        assert f"taken over from process {other.pid} on {HERE}" in caplog.text


@pytest.mark.parametrize("locks", [True, False], ids=["file system with locks", "without"])
def test_what_a_dead_process_left(tmp_path, monkeypatch, caplog, locks):
    if not locks:
        monkeypatch.setattr(fcntl, "flock", refuse_locks)
    owner = leave_behind(tmp_path / "run")
    with RunLock(tmp_path / "run"):
        assert (
            f"taken over from process {owner['pid']} on {HERE} since 2026-01-02 03:04:05 UTC" in caplog.text
        )
        assert json.loads((tmp_path / "run" / NAME).read_text())["pid"] == os.getpid()
    assert not (tmp_path / "run" / NAME).exists()


def refuse_locks(*_):
    raise OSError(lock.NO_LOCKS_HERE[0], "no locks available")


def test_without_locks_the_process_itself_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", refuse_locks)
    leave_behind(tmp_path / "run", pid=os.getppid())
    assert f"in use by process {os.getppid()} on {HERE}" in refusal(tmp_path / "run")
    (tmp_path / "run" / NAME).write_text("")  # its owner may be about to say who it is
    assert f"if that run has ended, remove {tmp_path / 'run' / NAME}" in refusal(tmp_path / "run")


def test_a_lock_of_another_machine_is_believed(tmp_path):
    leave_behind(tmp_path / "run", host="elsewhere", pid=7)
    before = (tmp_path / "run" / NAME).read_text()
    assert refusal(tmp_path / "run") == (
        f"config.run_dir: {tmp_path / 'run'} is in use by process 7 on elsewhere since 2026-01-02 03:04:05 UTC, which "
        f"this machine ({HERE}) cannot ask; if that run has ended, remove {tmp_path / 'run' / NAME}"
    )
    assert (tmp_path / "run" / NAME).read_text() == before


@pytest.mark.parametrize("text", ["", '{"host"', "[]", '{"host": "x"}'])
def test_a_lock_that_was_never_written_is_taken_over(tmp_path, text):
    (tmp_path / NAME).write_text(text)
    with RunLock(tmp_path):
        assert json.loads((tmp_path / NAME).read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_file_is_no_folder(tmp_path, name):
    (tmp_path / "file").touch()
    assert (
        refusal(tmp_path / name) == f"config.run_dir: {tmp_path / 'file'} is not a folder; give another one"
    )


@pytest.mark.parametrize(
    ("folder", "why"), [("/proc/run", "No such file or directory"), ("x" * 300, "File name too long")]
)
def test_a_folder_that_cannot_be_written_to(folder, why):
    assert (
        refusal(Path(folder)) == f"config.run_dir: {folder} cannot be written to ({why}); give another folder"
    )


def test_no_room_for_a_lock(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"), RunLock(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []
