"""run_python_code: what code can do, what it is told when it errs, and how sandboxes come and go."""

import asyncio
import shutil
import time

import pytest
from sandboxed import BOTH, isolated, run, whole

from mirothinker_jax.config import ConfigError, ToolsConfig
from mirothinker_jax.tools import isolation
from mirothinker_jax.tools.executor import ToolExecutor
from mirothinker_jax.tools.sandbox import OUTPUT_CHARS, RunPython
from mirothinker_jax.tools.spec import Failure, ToolCall


@pytest.mark.parametrize("unsafe", BOTH)
def test_results(unsafe):
    code = ["print('a'); 6 * 7", "x = 1", "import sys; sys.stderr.write('err\\n'); print('ü€')", "None"]
    results = run(*code, unsafe=unsafe)
    assert [r.text for r in results] == ["a\n42", "(no output)", "err\nü€", "(no output)"]
    assert [r.failure for r in results] == [None] * 4
    assert not any(r.cached for r in run("1", "1", unsafe=unsafe))


@pytest.mark.parametrize("unsafe", BOTH)
def test_errors_show_the_code_and_not_the_machinery(unsafe):
    error, syntax, status, quiet = run(
        "print('before')\ndef f():\n    return 1 / 0\nf()",
        "x = (",
        "import sys; sys.exit('bad')",
        "import sys; sys.exit(3)",
        unsafe=unsafe,
    )
    assert all(r.failure is Failure.TOOL_ERROR for r in (error, syntax, status, quiet))
    first, *_, last = error.text.splitlines()
    assert (first, last) == ("before", "ZeroDivisionError: division by zero")
    assert 'File "<code>", line 3, in f\n    return 1 / 0' in error.text
    assert "exec(" not in error.text and "<string>" not in error.text
    assert syntax.text.startswith('  File "<code>", line 1') and "SyntaxError" in syntax.text
    assert (status.text, quiet.text) == ("bad", "exit code 3")


@pytest.mark.parametrize("unsafe", BOTH)
def test_output_is_capped(unsafe):
    result = run("for i in range(10_000): print('é' * 100)", unsafe=unsafe)
    assert result.failure is None
    text, _, notice = result.text.rpartition("\n")
    assert notice == "(output cut at 20,000 characters)"
    assert len(text) == OUTPUT_CHARS and set(text) == {"é", "\n"}


@pytest.mark.parametrize("unsafe", BOTH)
def test_calls_without_an_id_share_nothing(unsafe):
    first, second = run(
        "open('a', 'w').write('x'); y = 1", "import os; print(os.listdir(), 'y' in dir())", unsafe=unsafe
    )
    assert first.failure is None
    assert second.text == "[] False"


@pytest.mark.parametrize("unsafe", BOTH)
def test_files_stay_under_an_id_and_within_the_episode(unsafe):
    async def main():
        settings = ToolsConfig(unsafe_sandbox=unsafe)
        async with ToolExecutor([RunPython(settings)], settings, whole) as executor:

            async def use(code, request_id, sandbox_id):
                arguments = {"code_block": code, "sandbox_id": sandbox_id}
                return await executor.execute(
                    ToolCall("tool-python", "run_python_code", arguments), request_id
                )

            await use("y = 1; open('a', 'w').write('kept')", "e1:0.0", "s")
            return [
                (await use(code, *where)).text
                for code, *where in (
                    ("open('a').read()", "e1:3.1", "s"),
                    ("'y' in dir()", "e1:3.2", "s"),
                    ("import os; os.listdir()", "e1:3.3", "other"),
                    ("import os; os.listdir()", "e2:0.0", "s"),
                )
            ]

    assert asyncio.run(main()) == ["'kept'", "False", "[]", "[]"]


@pytest.mark.parametrize("unsafe", BOTH)
def test_code_that_runs_too_long_is_killed_and_shows_what_it_printed(unsafe):
    start = time.monotonic()
    result = run("print('started')\nwhile True: pass", unsafe=unsafe, deadline_s=3.0)
    assert time.monotonic() - start < 2.9
    assert (result.failure, result.text) == (
        Failure.TOOL_ERROR,
        "started\nkilled: the code ran longer than 1.5 s",
    )


@pytest.mark.parametrize("unsafe", BOTH)
def test_an_id_works_again_after_its_sandbox_was_killed(unsafe):
    blocks = ("open('a', 'w').write('x')", "while True: pass", "import os; os.listdir()")
    _, killed, after = run(*blocks, unsafe=unsafe, deadline_s=3.0, sandbox_id="s")
    assert killed.failure is Failure.TOOL_ERROR
    assert (after.failure, after.text) == (None, "[]")


@isolated
def test_calls_at_the_same_time_under_one_id_share_one_sandbox():
    async def main():
        tool = RunPython(ToolsConfig())
        code = "import os; open(str(len(os.listdir())), 'w').close(); sorted(os.listdir())"
        try:
            arguments = {"code_block": code, "sandbox_id": "s"}
            texts = await asyncio.gather(*[tool.run(arguments, f"e:0.{i}") for i in range(3)])
            return texts, len(tool._named)
        finally:
            await tool.aclose()

    texts, held = asyncio.run(main())
    assert sorted(texts) == ["['0', '1', '2']", "['0', '1']", "['0']"]
    assert held == 1


@pytest.mark.parametrize("unsafe", BOTH)
def test_a_process_that_kills_its_own_sandbox(unsafe):
    result = run(
        "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nimport time; time.sleep(5)", unsafe=unsafe
    )
    assert result.failure is Failure.TOOL_ERROR
    assert "ended before the code did" in result.text


@pytest.mark.parametrize("unsafe", BOTH)
def test_memory_is_limited(unsafe):
    result = run("x = bytearray(3 * 2**30)", unsafe=unsafe)
    assert result.failure is Failure.TOOL_ERROR and "MemoryError" in result.text


@pytest.mark.parametrize("unsafe", BOTH)
def test_file_size_is_limited(unsafe):
    result = run("f = open('big', 'wb')\nfor _ in range(100): f.write(bytes(2**20))", unsafe=unsafe)
    assert result.failure is Failure.TOOL_ERROR and "OSError" in result.text


@pytest.mark.parametrize("unsafe", BOTH)
def test_input_is_empty(unsafe):
    result = run("input()", unsafe=unsafe)
    assert "EOFError" in result.text


@isolated
def test_packages_beside_this_python_can_be_used():
    assert run("import numpy; int(numpy.arange(10).sum())").text == "45"


@isolated
def test_idle_and_surplus_sandboxes_are_killed(monkeypatch):
    async def main():
        tool = RunPython(ToolsConfig())

        async def use(name, code="import os; print(len(os.listdir())); open('a', 'w').close()"):
            return await tool.run({"code_block": code, "sandbox_id": name}, "e:0.0")

        try:
            monkeypatch.setattr("mirothinker_jax.tools.sandbox._NAMED", 2)
            seen = [await use(name) for name in "aabbcab"]
            held = len(tool._named)
            monkeypatch.setattr("mirothinker_jax.tools.sandbox._IDLE_S", 0.0)
            seen.append(await use("c"))
            return seen, held, len(tool._named)
        finally:
            await tool.aclose()

    seen, held, left = asyncio.run(main())
    # Two at a time: c takes the place of a, then a that of b, then b that of c.
    assert seen == ["0", "1", "0", "1", "0", "0", "0", "0"]
    assert (held, left) == (2, 1)


def test_without_bubblewrap_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(isolation.shutil, "which", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"needs bwrap: install it .*bubblewrap.*tools\.unsafe_sandbox=True"
    ):
        RunPython(ToolsConfig())


def test_bubblewrap_that_does_not_work_is_reported():
    with pytest.raises(ConfigError, match=r"does not work here .*no namespaces"):
        isolation.probe(["sh", "-c", "echo no namespaces >&2; exit 1"])


@isolated
def test_a_user_who_is_not_root_needs_no_relay(monkeypatch):
    monkeypatch.setattr(isolation.os, "geteuid", lambda: 1000)
    command = isolation.isolated_command(["python"])
    assert command.count(shutil.which("bwrap")) == 1 and "setpriv" not in " ".join(command)
