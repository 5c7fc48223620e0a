"""That nothing of a sandbox stays: after its episode, a cancelled call, and a process that was killed in the middle."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sandboxed import detached, gone, isolated, processes_with, session

pytestmark = isolated


async def appears(marker):
    async with asyncio.timeout(10):
        while not processes_with(marker):
            await asyncio.sleep(0.02)


def test_all_sandboxes_of_an_episode_end_with_it():
    markers = [f"episode-{os.getpid()}-{name}" for name in "abc"]

    async def body(call):
        await call({}, "create_sandbox")
        await call(detached(markers[0]))
        await call(detached(markers[1]), sandbox_id="sandbox-1-0")
        await call(detached(markers[2]), episode="other")
        assert all(processes_with(marker) for marker in markers)
        await call.end()
        return gone(markers[0]), gone(markers[1]), bool(processes_with(markers[2]))

    assert session(body) == (True, True, True)
    assert gone(markers[2])  # closing the executor ends the rest


def test_cancelling_a_call_ends_its_processes():
    marker = f"cancelled-{os.getpid()}"

    async def body(call):
        task = asyncio.create_task(call(detached(marker) + "import time; time.sleep(60)"))
        await appears(marker)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert gone(marker)
        return (await call("'and there is another'")).text

    assert session(body) == "'and there is another'"


PROGRAM = """
import asyncio, sys
from mirothinker_jax.config import ToolsConfig
from mirothinker_jax.tools.sandbox_local import LocalHost
from mirothinker_jax.tools.workspace import Workspace

async def main():
    workspace = Workspace()
    await workspace.begin("e", [__file__])
    sandbox = await LocalHost(ToolsConfig()).create(60)
    print(workspace._root, flush=True)
    await sandbox.run_code(sys.argv[1], 60)

asyncio.run(main())
"""


def test_a_process_that_is_killed_leaves_nothing(tmp_path):
    marker = f"killed-{os.getpid()}"
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    code = detached(marker) + f"import time; time.sleep(60)  # {marker}"
    with subprocess.Popen(
        [sys.executable, program, code],
        stdout=subprocess.PIPE,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    ) as process:
        assert process.stdout
        root = Path(process.stdout.readline().decode().strip())
        assert len(list(root.glob("*/program.py"))) == 1
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        asyncio.run(appears(f"time.sleep(100)\0{marker}"))
        (bubblewrap,) = map(int, children.read_text().split())
        process.send_signal(signal.SIGKILL)
    assert gone(f"time.sleep(100)\0{marker}")
    assert not Path(f"/proc/{bubblewrap}").exists() or "Z" in Path(f"/proc/{bubblewrap}/stat").read_text()
    # What is on the disk goes when the next one starts.
    subprocess.run(
        [
            sys.executable,
            "-c",
            "from mirothinker_jax.tools.workspace import Workspace; Workspace()._folder('e')",
        ],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        check=True,
    )
    assert not root.exists()
