"""A recorded run answers again without its tools; damage is found, half a line is dropped."""

import asyncio
import errno
import itertools
import subprocess
import sys

import pytest
from virtual_time import run

from mirothinker_jax.config import ToolsConfig
from mirothinker_jax.config_tree import ConfigError
from mirothinker_jax.tools.build import build_tools
from mirothinker_jax.tools.executor import ToolExecutor
from mirothinker_jax.tools.recording import Record
from mirothinker_jax.tools.replay import Recorded, Replay
from mirothinker_jax.tools.spec import Failure, ToolCall, ToolError, ToolResult, ToolSpec

SPEC = ToolSpec("web", "look", "a tool", {"type": "object", "required": ["q"]})
CALL = ToolCall("web", "look", {"q": "ü\ud83d", "n": {"b": [1, None], "a": 2.5}})
RESULT = ToolResult("found \ud83d\nit", None, 0.125, True)


class Changing:
    """Never answers alike, and fails every third time."""

    spec = SPEC

    def __init__(self):
        self.count = itertools.count()

    async def run(self, arguments, request_id):
        await asyncio.sleep(1)
        number = next(self.count)
        if number % 3 == 2:
            raise ToolError(Failure.NETWORK, f"HTTP 503 of {number}")
        return f"answer {number} \ud83d " + "long " * number


def cut(text, tokens):
    return (text[:tokens], True) if len(text) > tokens else (text, False)


def execute(tools, calls, **settings):
    async def main():
        async with ToolExecutor(tools, ToolsConfig(output_tokens=30, **settings), cut) as executor:
            return [await executor.execute(call, request_id) for request_id, call in calls]

    return run(main())


def test_a_recorded_run_answers_again(tmp_path):
    path = str(tmp_path / "new" / "calls.txt")
    calls = [(f"e:{i}.0", ToolCall("web", "look", {"q": "same"})) for i in range(10)]
    calls += [
        ("e:10.0", ToolCall("web", "gone", {"q": "x"})),
        ("e:11.0", ToolCall("web", "look", {"q": object()})),
    ]
    calls += [("e:12.0", ToolCall("web", "look", [])), ("e:12.1", ToolCall("web", "look", {3: 1, "q": "x"}))]
    made = execute([Changing()], calls, record=path)
    assert {r.failure for r in made} == {
        None,
        Failure.NETWORK,
        Failure.UNKNOWN_TOOL,
        Failure.INVALID_ARGUMENTS,
    }
    assert any(r.truncated for r in made)
    calls[11] = ("e:11.0", ToolCall("web", "look", {"q": calls[11][1].arguments["q"]}))
    again = execute([Recorded(SPEC)], reversed(calls), replay=path)
    assert again == made[::-1]


def test_calls_that_are_not_on_record_are_named(tmp_path, caplog):
    path = str(tmp_path / "calls")
    execute([Changing()], [("e:0.0", ToolCall("web", "look", {"q": "x"}))], record=path)
    others = [
        ("e:0.1", ToolCall("web", "look", {"q": "x"})),
        ("e:0.0", ToolCall("web", "look", {"q": "y"})),
        ("e:0.0", ToolCall("mail", "look", {"q": "x"})),
        ("f:0.0", ToolCall("web", "look", {"q": "x"})),
    ]
    results = [ToolExecutor([Recorded(SPEC)], ToolsConfig(replay=path), lambda t, n: (t, False))]
    results = [run(results[0].execute(call, request_id)) for request_id, call in others]
    assert [r.failure for r in results] == [Failure.NETWORK] * 4
    assert results[1].text == f"not on record in {path}: call e:0.0 of web/look with {{'q': 'y'}}"
    assert len({r.text for r in results}) == 4 and len(caplog.records) == 4


def record(path, *results, call=CALL, request_id="e:0.0"):
    writer = Record(str(path))
    for result in results:
        writer.append(call, request_id, result)
    writer.close()


def test_the_last_of_several_counts_and_a_file_is_gone_on_with(tmp_path):
    path = tmp_path / "calls"
    record(path, ToolResult("first"), ToolResult("second"))
    record(path, RESULT)
    record(path, ToolResult("other"), request_id="e:0.1")
    replay = Replay(str(path))
    assert replay.result(CALL, "e:0.0") == RESULT and path.read_bytes().count(b"\n") == 4
    replay.close()
    assert replay.result(CALL, "e:0.1") == ToolResult("other")
    replay.close()


def test_parts_of_several_processes(tmp_path):
    record(tmp_path / "[c]alls.0-of-2.txt", RESULT)
    record(tmp_path / "[c]alls.1-of-2.txt", RESULT, request_id="e:0.1")
    replay = Replay(str(tmp_path / "[c]alls.txt"))
    assert [replay.result(CALL, f"e:0.{i}") for i in range(3)] == [RESULT, RESULT, None]
    replay.close()


def test_half_a_line_is_dropped_wherever_it_ends(tmp_path):
    path = tmp_path / "calls"
    record(path, RESULT)
    record(path, ToolResult("x" * 100_000), request_id="e:0.1")
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for end in (*range(first, len(whole), 9973), first + 1, len(whole) - 1):
        path.write_bytes(whole[:end])
        replay = Replay(str(path))
        assert (replay.result(CALL, "e:0.0"), replay.result(CALL, "e:0.1")) == (RESULT, None)
        replay.close()
        record(path, ToolResult("x" * 100_000), request_id="e:0.1")
        assert path.read_bytes() == whole
    path.write_bytes(b"half of the first line")
    Record(str(path)).open().close()
    assert path.read_bytes() == b""


@pytest.mark.parametrize("line", [1, 2])
def test_a_damaged_line_is_named(tmp_path, line):
    path = tmp_path / "calls"
    record(path, RESULT, RESULT)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[line - 1] = lines[line - 1].replace(b"found", b"fount")
    path.write_bytes(b"".join(lines))
    with pytest.raises(
        ConfigError, match=rf"tools.replay: {path}:{line}: the line does not fit its checksum"
    ):
        Replay(str(path))


def test_a_full_disk_leaves_no_half_line(tmp_path, monkeypatch):
    path = tmp_path / "calls"
    writer = Record(str(path))
    writer.append(CALL, "e:0.0", RESULT)
    before = path.read_bytes()

    class Full:
        def __init__(self, file):
            self._file = file

        def write(self, line):
            return self._file.write(line[:10])

        def __getattr__(self, name):
            return getattr(self._file, name)

        def __enter__(self):
            return self._file.__enter__()

        def __exit__(self, *error):
            return self._file.__exit__(*error)

    writer._file = Full(writer._file)
    with pytest.raises(OSError, match="No space left") as caught:
        writer.append(CALL, "e:0.1", RESULT)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    assert path.read_bytes() == before
    writer.close()


def test_one_process_writes(tmp_path):
    path = tmp_path / "calls"
    writer = Record(str(path))
    writer.open()
    program = f"from mirothinker_jax.tools.recording import Record; Record({str(path)!r}).open()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert f"tools.record is {path}, to which another process is writing" in done.stderr
    writer.close()


def test_wrong_files_are_found_before_anything_is_called(tmp_path):
    for settings, message in [
        ({"record": str(tmp_path)}, r"tools.record is .*, which cannot be written \(Is a directory\)"),
        ({"replay": str(tmp_path / "none")}, "tools.replay is '.*none', and there is no such file"),
        ({"tool_rates": ("x:1",)}, "tools.tool_rates limits 'x', which is no tool of this run"),
    ]:
        with pytest.raises(ConfigError, match=message):
            build_tools(ToolsConfig(names=("google_search",), **settings), "http://proxy", "")


def test_a_replay_needs_no_key_and_no_service(tmp_path):
    path = tmp_path / "calls"
    record(path, RESULT)
    names = ToolsConfig().names
    tools = build_tools(ToolsConfig(replay=str(path), search_url="https://s.test"), None, "")
    assert tuple(tool.spec.name for tool in tools) == names
