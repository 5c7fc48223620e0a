"""The sandbox tools: what code and commands can do, what they are told when they err, what stays between calls."""

import asyncio
import shutil
import time

import pytest
from sandboxed import BOTH, isolated, run, session

from mirothinker_jax.config import ConfigError, ToolsConfig
from mirothinker_jax.tools import isolation
from mirothinker_jax.tools.sandbox_interface import OUTPUT_CHARS
from mirothinker_jax.tools.sandbox_local import LocalHost
from mirothinker_jax.tools.spec import Failure


@pytest.mark.parametrize("unsafe", BOTH)
def test_results(unsafe):
    code = ["print('a'); 6 * 7", "x = 1", "import sys; sys.stderr.write('err\\n'); print('ü€')", "None"]
    results = run(*code, unsafe=unsafe)
    assert [r.text for r in results] == ["a\n42", "(no output)", "err\nü€", "(no output)"]
    assert [r.failure for r in results] == [None] * 4


@pytest.mark.parametrize("unsafe", BOTH)
def test_errors_show_the_code_and_not_the_machinery(unsafe):
    error, syntax, status, quiet, null, end = run(
        "print('before')\ndef f():\n    return 1 / 0\nf()",
        "x = (",
        "import sys; sys.exit('bad')",
        "import sys; sys.exit(3)",
        "print(1)\0",
        "input()",
        unsafe=unsafe,
    )
    assert all(r.failure is Failure.TOOL_ERROR for r in (error, syntax, status, quiet, null, end))
    first, *_, last = error.text.splitlines()
    assert (first, last) == ("before", "ZeroDivisionError: division by zero")
    assert 'File "<code 1>", line 3, in f\n    return 1 / 0' in error.text
    assert "exec(" not in error.text and "<string>" not in error.text
    assert syntax.text.startswith('  File "<code 2>", line 1') and "SyntaxError" in syntax.text
    assert (status.text, quiet.text) == ("bad", "exit code 3")
    assert "null bytes" in null.text and "EOFError" in end.text


@pytest.mark.parametrize("unsafe", BOTH)
def test_files_and_variables_stay_in_a_sandbox_and_nowhere_else(unsafe):
    async def body(call):
        other = (await call({}, "create_sandbox")).text.removeprefix("sandbox_id: ")
        look = "import os; [os.listdir(), globals().get('y')]"
        await call("y = 1; open('a', 'w').write('kept')")
        return other, [
            await call(look),
            await call("cat a; pwd", "run_command"),
            await call(look, sandbox_id=other),
            await call(look, episode="e2"),
            await call(look, sandbox_id="s"),
        ]

    other, (same, command, elsewhere, episode, unknown) = session(body, unsafe_sandbox=unsafe)
    assert other == "sandbox-1-0"
    assert (same.text, elsewhere.text, episode.text) == ("[['a'], 1]", "[[], None]", "[[], None]")
    assert command.text.startswith("kept/") and command.failure is None
    assert unknown.failure is Failure.TOOL_ERROR and "there is no sandbox 's'" in unknown.text


@pytest.mark.parametrize("unsafe", BOTH)
def test_commands(unsafe):
    async def body(call):
        wanted = ("echo out; echo err >&2", "exit 3", "nonesuch", "kill -9 $$", "a\0b")
        return [await call(command, "run_command") for command in wanted]

    both, status, unknown, killed, null = session(body, unsafe_sandbox=unsafe)
    assert (both.text, both.failure) == ("out\nerr", None)
    assert (status.text, status.failure) == ("exit code 3", Failure.TOOL_ERROR)
    assert "not found" in unknown.text and killed.text == "killed by signal SIGKILL"
    assert null.failure is Failure.TOOL_ERROR and "null byte" in null.text


@pytest.mark.parametrize("unsafe", BOTH)
@pytest.mark.parametrize("code", ["while True: pass", "import subprocess; subprocess.run(['sleep', '60'])"])
def test_code_that_runs_too_long_is_killed_and_its_files_stay(code, unsafe):
    start = time.monotonic()
    first, killed, after = run(
        "x = 1; open('a', 'w').close()",
        f"print('started')\n{code}",
        "import os; [os.listdir(), 'x' in globals()]",
        unsafe=unsafe,
        deadline_s=1.0,
    )
    assert time.monotonic() - start < 5.0
    assert first.failure is None and killed.failure is Failure.TOOL_ERROR
    assert killed.text == (
        "started\nkilled: the code ran longer than 0.5 s\n(the variables of earlier code are gone; files are there)"
    )
    assert (after.failure, after.text) == (None, "[['a'], False]")


@pytest.mark.parametrize("unsafe", BOTH)
def test_code_that_ends_its_own_process(unsafe):
    died, fresh, after = run("import os; os.abort()", "x = 2", "x", unsafe=unsafe)
    assert died.text == (
        "killed by signal SIGABRT\n(the variables of earlier code are gone; files are there)"
    )
    assert (fresh.failure, after.text) == (None, "2")


@isolated
def test_a_process_in_the_background_runs_during_calls_alone():
    async def body(call):
        await call("(while true; do echo . >> ticks; done) & sleep 0.05", "run_command")
        first = int((await call("import os; os.path.getsize('ticks')")).text)
        await asyncio.sleep(0.3)
        second = int((await call("os.path.getsize('ticks')")).text)
        await call("import time; time.sleep(0.2)")
        return first, second, int((await call("os.path.getsize('ticks')")).text)

    first, second, third = session(body)
    # Stopped in the pause (a call's own moment is much shorter), going on in a call that takes as long.
    assert first <= second < third and second - first < (third - second) / 2


@isolated
def test_calls_at_the_same_time_share_the_sandbox_that_the_first_makes():
    async def body(call):
        code = "import os; open(str(len(os.listdir())), 'w').close(); sorted(os.listdir())"
        tool = call.tools["run_python_code"]
        arguments = {"code_block": code, "sandbox_id": "default"}
        texts = await asyncio.gather(*[tool.run(arguments, f"e:0.{i}") for i in range(3)])
        return texts, len(call.pool._places)

    texts, kept = session(body)
    assert sorted(texts) == ["['0', '1', '2']", "['0', '1']", "['0']"]
    assert kept == 1


@isolated
def test_packages_beside_this_python_can_be_used():
    assert run("import numpy; int(numpy.arange(10).sum())").text == "45"


@pytest.mark.parametrize("unsafe", BOTH)
def test_output_is_capped(unsafe):
    result = run("for i in range(10_000): print('é' * 100)", unsafe=unsafe)
    assert result.failure is None
    text, _, notice = result.text.rpartition("\n")
    assert notice == "(output cut at 20,000 characters)"
    assert len(text) == OUTPUT_CHARS and set(text) == {"é", "\n"}


def test_without_bubblewrap_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(isolation.shutil, "which", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"needs bwrap: install it .*bubblewrap.*tools\.unsafe_sandbox=True"
    ):
        LocalHost(ToolsConfig())


def test_bubblewrap_that_does_not_work_is_reported():
    with pytest.raises(ConfigError, match=r"does not work here .*no namespaces"):
        isolation.probe(["sh", "-c", "echo no namespaces >&2; exit 1"], b"")


@isolated
def test_a_user_who_is_not_root_needs_no_relay(monkeypatch):
    monkeypatch.setattr(isolation.os, "geteuid", lambda: 1000)
    command = isolation.isolated_command(["python"])
    assert command.count(shutil.which("bwrap")) == 1 and "setpriv" not in " ".join(command)
