"""The control group of a sandbox: where one is made, with plain files; and what it does, where this machine has one."""

import asyncio
import os
from pathlib import Path

import pytest
from sandboxed import Box, isolated

from mirothinker_jax.config import ConfigError
from mirothinker_jax.tools import cgroup
from mirothinker_jax.tools.cgroup import Group, find_parent
from mirothinker_jax.tools.sandbox_interface import SandboxDied
from mirothinker_jax.tools.sandbox_local import PROCESSES

PARENT = find_parent("")
real = pytest.mark.skipif(PARENT is None, reason="no cgroup v2 that this user may divide")


class Tree:
    """Files as in /sys/fs/cgroup: a group has its own as soon as it is made."""

    def __init__(self, monkeypatch, folder):
        self.folder = folder
        mkdir_of_system, rmdir_of_system = Path.mkdir, Path.rmdir

        def mkdir(path, *args, **kwargs):
            mkdir_of_system(path, *args, **kwargs)
            self.fill(path, "")

        def rmdir(path):
            if (path / "cgroup.procs").read_text().strip():
                raise OSError("busy")
            for file in path.iterdir():
                file.unlink()
            rmdir_of_system(path)

        monkeypatch.setattr(cgroup.Path, "mkdir", mkdir)
        monkeypatch.setattr(cgroup.Path, "rmdir", rmdir)

    def fill(self, path, controllers):
        (path / "cgroup.procs").write_text("")
        (path / "cgroup.subtree_control").write_text(controllers)
        for name in ("memory.max", "pids.max"):
            (path / name).write_text("max\n")
        (path / "memory.events").write_text("low 0\noom_kill 0\n")

    def group(self, name, controllers):
        path = self.folder / name
        path.mkdir()
        self.fill(path, controllers)
        return path


def test_a_group_and_its_limits(monkeypatch, tmp_path):
    tree = Tree(monkeypatch, tmp_path)
    parent = tree.group("parent", "cpu memory pids")
    left, busy, others = (
        tree.group(f"parent/{name}", "") for name in ("mirothinker-1-0", "mirothinker-0-7", "x")
    )
    alive = tree.group(f"parent/mirothinker-{os.getpid()}-9", "")
    (busy / "cgroup.procs").write_text("17\n")
    assert find_parent(str(parent)) == parent
    # Process 1 is there; process 0 never is, but its group is in use.
    assert left.exists() and busy.exists() and others.exists() and alive.exists()
    (busy / "cgroup.procs").write_text("")
    assert find_parent(str(parent)) == parent and not busy.exists()

    group = Group(parent, 1000, 7)
    (made,) = set(parent.glob(f"mirothinker-{os.getpid()}-*")) - {alive}
    said = {name: (made / name).read_text() for name in ("memory.max", "memory.swap.max", "pids.max")}
    assert said == {"memory.max": "1000", "memory.swap.max": "0", "pids.max": "7"}
    assert (made / "memory.oom.group").read_text() == "1"
    assert not group.ran_out_of_memory()
    (made / "memory.events").write_text("low 0\noom_kill 3\n")
    assert group.ran_out_of_memory()
    group.kill()
    assert (made / "cgroup.kill").read_text() == "1"
    (made / "cgroup.procs").write_text("17\n")
    assert not group.remove() and made.exists()
    (made / "cgroup.procs").write_text("")
    assert group.remove() and group.remove() and not made.exists()


def test_a_command_enters_the_group_before_it_starts(tmp_path, monkeypatch):
    Tree(monkeypatch, tmp_path)
    group = Group(tmp_path, 1, 1)

    async def main():
        command = group.entering(["sh", "-c", "echo $$ $0", "a b"])
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        said, _ = await process.communicate()
        return process.pid, said.decode().split()

    pid, said = asyncio.run(main())
    assert said == [str(pid), "a", "b"]
    assert (group._path / "cgroup.procs").read_text().split() == [str(pid)]


@pytest.mark.parametrize(
    ("own", "controllers", "found"),
    [
        ("/", {"": "memory pids"}, ""),
        ("/user/app", {"": "memory pids", "user": "memory pids", "user/app": "memory pids"}, "user/app"),
        ("/user/app", {"": "memory pids", "user": "cpu memory pids", "user/app": ""}, "user"),
        ("/user/app", {"": "memory pids", "user": "memory", "user/app": ""}, None),
        ("/user/app", {"": "memory pids", "user": "memory pids", "user/app": "LIMITED"}, None),
        ("/x/elsewhere", {"": "memory pids"}, None),
    ],
    ids=["root", "own", "above", "no-pids", "limited", "not-mounted"],
)
def test_where_it_is_looked_for(monkeypatch, tmp_path, own, controllers, found):
    tree = Tree(monkeypatch, tmp_path)
    for name, said in controllers.items():
        (tmp_path / name).mkdir(exist_ok=True)
        tree.fill(tmp_path / name, said)
        if said == "LIMITED":
            (tmp_path / name / "pids.max").write_text("100\n")
    (tmp_path / "cgroup").write_text(f"4:memory:/x\n0::{own}\n")
    (tmp_path / "mountinfo").write_text(
        f"30 23 0:26 / /sys rw - sysfs sysfs rw\n31 23 0:27 / {tmp_path} rw,nosuid shared:4 - cgroup2 cgroup2 rw\n"
    )
    plain = Path.read_text
    names = {"/proc/self/cgroup": "cgroup", "/proc/self/mountinfo": "mountinfo"}

    def read_text(path, *args):
        return plain(tmp_path / names[str(path)] if str(path) in names else path, *args)

    monkeypatch.setattr(cgroup.Path, "read_text", read_text)
    assert find_parent("") == (None if found is None else tmp_path / found)


def test_one_that_cannot_be_used_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"tools\.sandbox_cgroup is '.*none', in which this user cannot"):
        find_parent(str(tmp_path / "none"))


@pytest.fixture(scope="module")
def grouped():
    box = Box()
    box.host.parent = PARENT
    yield box
    box.close()


@isolated
@real
@pytest.mark.parametrize(
    "mapping", ["x = bytearray(10**8)", "import mmap; x = mmap.mmap(-1, 10**8); x.write(bytes(10**8))"]
)
def test_memory_of_all_processes_together(grouped, mapping):
    assert grouped.python("1") == "1"
    group = grouped.sandbox._group._path
    code = (
        f"import os, time\nfor _ in range(5):\n  if os.fork() == 0: {mapping}; time.sleep(60)\ntime.sleep(60)"
    )
    with pytest.raises(SandboxDied, match="more than 256 MiB of memory together"):
        grouped.python(code, 60.0)
    assert not group.exists()
    assert grouped.python("2") == "2"


@isolated
@real
def test_processes_are_in_the_group_and_leave_it_empty(grouped):
    said = grouped.shell(
        "sleep 9 & sleep 9 & echo left; cat /proc/self/cgroup; ls /sys/fs/cgroup 2>&1 | head -1"
    )
    assert "No such file" in said.output.splitlines()[-1]
    group = grouped.sandbox._group._path
    assert 4 <= len((group / "cgroup.procs").read_text().split()) <= PROCESSES
    assert int((group / "memory.current").read_text()) > 0
    grouped.use(lambda sandbox: sandbox.kill())
    assert not group.exists()
