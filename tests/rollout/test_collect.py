"""What is collected is kept: across kills, outages and judges that are away, nothing is run twice and nothing is
lost."""

import asyncio
import contextlib
import dataclasses
import json
import os
import re
import resource
import subprocess
import sys
import zlib

import pytest

from mirothinker_jax.agent.characters import Characters
from mirothinker_jax.agent.policy import EngineError, Turn
from mirothinker_jax.agent.setting import Setting
from mirothinker_jax.config_tree import ConfigError
from mirothinker_jax.data.chat import Chat
from mirothinker_jax.pipeline.endings import storage_failure
from mirothinker_jax.rollout.collect import EpisodeSpec, OutageError, Runtime, collect
from mirothinker_jax.tasks.types import Task, Verdict
from mirothinker_jax.tools.spec import Failure, ToolCall, ToolResult, render_call
from mirothinker_jax.trajectory.journal import History, Journal
from mirothinker_jax.trajectory.types import Stop

CODEC = Characters()
CALL = render_call(ToolCall("s", "look", {"q": "x"}))
SETTING = Setting("Answer.", max_calls=5, context_tokens=5000, turn_tokens=500, output_tokens=100)
SPECS = [EpisodeSpec(f"e-{n}", Task(f"q{n}", f"question {n}?", "yes"), n) for n in range(4)]


class Killed(BaseException):
    """The process is gone."""


class Script:
    """Two calls, then the answer. `fuse`: turns until it burns."""

    def __init__(self, fuse=1000, error=Killed):
        self.fuse, self.error, self.turns = fuse, error, []

    async def generate(self, request):
        if self.fuse == 0:
            raise self.error("no more")
        self.fuse -= 1
        self.turns.append(request.session)
        ids = (*CODEC.encode(self.say(CODEC.decode(request.ids))), CODEC.im_end_id)
        return Turn(ids, (-0.5,) * len(ids), True)

    def say(self, said):
        return "\\boxed{yes}" if said.count("found") == 2 else CALL

    def forget(self, session):
        pass


class Tools:
    def __init__(self, down=lambda request: False, changing=False):
        self.down, self.changing, self.calls = down, changing, []

    def concurrent(self, call):
        return True

    def changes(self, call):
        return self.changing

    async def begin(self, episode, files=()):
        pass

    async def end(self, episode):
        pass

    async def execute(self, call, request_id):
        self.calls.append(request_id)
        if self.down(request_id):
            return ToolResult("the service is down", Failure.NETWORK)
        return ToolResult("found")


async def by_answer(task, attempt):
    return Verdict(attempt.answer == task.answer)


def run(path, engine=None, tools=None, specs=SPECS, grader=by_answer, again=False, outage_calls=1, **fields):
    setting = dataclasses.replace(SETTING, outage_calls=outage_calls)
    runtime = Runtime(tools or Tools(), Chat(CODEC), CODEC.decode, setting, grader, **fields)

    async def play():
        with Journal(path) as journal:
            return await collect(
                specs, engine=engine or Script(), runtime=runtime, journal=journal, history=History(path),
                retry_broken=again,
            )  # fmt: skip

    return asyncio.run(play())


def test_what_is_finished_is_read(tmp_path):
    path = tmp_path / "e.jsonl"
    engine, tools = Script(), Tools()
    first = run(path, engine, tools)
    assert [t.id for t in first] == [s.id for s in SPECS] and all(t.correct for t in first)
    assert len(engine.turns) == 12 and len(set(tools.calls)) == len(tools.calls) == 8
    engine, tools = Script(), Tools()
    more = [*SPECS, EpisodeSpec("e-9", SPECS[0].task, 9)]
    assert run(path, engine, tools, more)[:4] == first
    assert set(engine.turns) == {"e-9"} and len(tools.calls) == 2


@pytest.mark.parametrize("fuse", range(12))
def test_a_killed_collection_goes_on_at_its_turn(tmp_path, fuse):
    """Killed before each turn in turn: what was sampled and called is not sampled or called again."""
    whole = run(tmp_path / "whole.jsonl")
    path, before, tools = tmp_path / "e.jsonl", Script(fuse), Tools()
    with pytest.raises(Killed):
        run(path, before, tools)
    after, more = Script(), Tools()
    assert run(path, after, more) == whole
    assert len(before.turns) + len(after.turns) == 12
    assert sorted([*tools.calls, *more.calls]) == sorted(f"{s.id}:{n}.0" for s in SPECS for n in (1, 2))


def test_an_episode_with_a_sandbox_begins_again(tmp_path):
    """What it did there is gone with the process; what was sampled is not, where its calls come to the same."""
    path, engine, tools = tmp_path / "e.jsonl", Script(2), Tools(changing=True)
    with pytest.raises(Killed):
        run(path, engine, tools, SPECS[:1])
    engine = Script()
    assert all(t.correct for t in run(path, engine, tools, SPECS[:1]))
    assert tools.calls == ["e-0:1.0", "e-0:2.0"] * 2 and len(engine.turns) == 1


def test_what_the_infrastructure_broke_is_tried_again_from_where_it_broke(tmp_path):
    engine, tools = Script(), Tools(down=lambda request: request == "e-1:2.0")
    first = run(tmp_path / "e.jsonl", engine, tools)
    assert all(t.stop is Stop.ANSWERED and t.correct for t in first)
    assert [c for c in tools.calls if c.startswith("e-1")] == ["e-1:1.0", "e-1:2.0", "e-1~1:2.0"]
    assert first[1].id == "e-1" and len(engine.turns) == 12
    assert first == run(tmp_path / "whole.jsonl")


def test_a_result_is_of_what_was_asked(tmp_path):
    """Killed after a failure and what followed it: with the service up again, the policy asks something else there."""

    class Asks(Script):
        def say(self, said):
            if "answer to b" in said or "answer to c" in said:
                return "\\boxed{yes}"
            q = "b" if "is down" in said else "c" if "answer to a" in said else "a"
            return render_call(ToolCall("s", "look", {"q": q}))

    class Answers(Tools):
        async def execute(self, call, request_id):
            result = await super().execute(call, request_id)
            return result if result.failure else ToolResult(f"answer to {call.arguments['q']}")

    path, down = tmp_path / "e.jsonl", Answers(down=lambda request: request == "e-0:1.0")
    with pytest.raises(Killed):
        run(path, Asks(2), down, SPECS[:1], outage_calls=2)
    up = Answers()
    (found,) = run(path, Asks(), up, SPECS[:1], outage_calls=2)
    assert down.calls == up.calls == ["e-0:1.0", "e-0:2.0"]
    assert [m["content"] for m in found.messages() if m["role"] == "tool"] == ["answer to a", "answer to c"]


def test_a_share_of_broken_episodes_is_left_out(tmp_path):
    path, tools = tmp_path / "e.jsonl", Tools(down=lambda request: request.startswith("e-1"))
    first = run(path, tools=tools, broken_share=0.25)
    assert [t.stop is Stop.INFRASTRUCTURE for t in first] == [False, True, False, False]
    assert first[1].correct is None and len(tools.calls) == 3 * 2 + 3
    engine = Script()
    assert run(path, engine, broken_share=0.25) == first and engine.turns == [], "it stays left out"
    assert all(t.correct for t in run(path, again=True))


def test_an_outage_stops_with_one_line_and_leaves_nothing_wrong_behind(tmp_path):
    path, whole = tmp_path / "e.jsonl", run(tmp_path / "whole.jsonl")
    tools, before, after = Tools(), Script(), Script()
    tools.down = lambda request: len(tools.calls) > 5
    with pytest.raises(
        OutageError, match=r"1 of 4 episodes broke, more than tasks\.broken_share=0\.1 allows \(the s"
    ):
        run(path, before, tools)
    assert run(path, after) == whole
    assert len(before.turns) + len(after.turns) == 12


def test_a_sampler_that_breaks_is_no_fault_of_the_policy(tmp_path):
    with pytest.raises(OutageError, match=r"1 of 4 episodes broke, .*\(no more\)"):
        run(tmp_path / "e.jsonl", Script(2, EngineError))
    assert all(t.correct for t in run(tmp_path / "e.jsonl"))


def test_unjudged_is_not_wrong(tmp_path):
    path, asked = tmp_path / "e.jsonl", []

    async def away(task, attempt):
        asked.append(task.id)
        return Verdict(None, "the judge is away")

    with pytest.raises(OutageError, match=r"could not be judged, .*\(the judge is away\)"):
        run(path, grader=away)
    engine = Script()
    assert all(t.correct for t in run(path, engine)) and len(engine.turns) < 12

    async def shy(task, attempt):
        return Verdict(None) if task.id == "q2" else Verdict(True, "yes", {"f1": 0.5})

    judged = run(tmp_path / "f.jsonl", grader=shy, broken_share=0.25)
    assert [t.correct for t in judged] == [True, True, None, True]
    assert judged[0].terms == {"f1": 0.5} and judged[0].reason == "yes"


def rewrite(path, change):
    """The journal with `change(event)` in place of each event, with fitting checksums; None: without it."""
    lines = [json.loads(line[9:]) for line in path.read_text("utf-8").splitlines()]
    texts = [json.dumps(e).encode() for e in map(change, lines) if e is not None]
    path.write_bytes(b"".join(b"%08x %s\n" % (zlib.crc32(text), text) for text in texts))


def renamed(event):
    """As a version wrote it that had another name for something."""
    return {
        {"stop": "ending", "failure": "error", "context": "sampled_from"}.get(k, k): v
        for k, v in event.items()
    }


DAMAGE = {
    "by hand": lambda path: path.write_bytes(path.read_bytes().replace(b"yes", b"nay")),
    "line breaks of Windows": lambda path: path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n")),
    "lines deleted": lambda path: path.write_bytes(b"".join(path.read_bytes().splitlines(True)[::3])),
    "another version": lambda path: rewrite(path, renamed),
    "events unheard of": lambda path: rewrite(path, lambda e: e | {"event": e["event"] + "-2"}),
    "half of the tokens": lambda path: os.truncate(path.with_suffix(".columns"), 4000),
    "no tokens": lambda path: path.with_suffix(".columns").unlink(),
    "tokens alone": lambda path: path.unlink(),
    "not a journal": lambda path: path.write_bytes(bytes(range(256)) * 9),
    "JSON that is no event": lambda path: rewrite(path, lambda e: [e]),
}


@pytest.mark.parametrize("name", DAMAGE)
@pytest.mark.parametrize("fuse", [10, 1000], ids=["killed", "done"])
def test_a_journal_that_was_damaged_is_completed(tmp_path, caplog, name, fuse):
    """Whatever counts as never written is done again, said in one line, and what was there stays in the file."""
    path, whole = tmp_path / "e.jsonl", run(tmp_path / "whole.jsonl")
    with contextlib.suppress(Killed):
        run(path, Script(fuse))
    DAMAGE[name](path)
    before = path.read_bytes() if path.exists() else b""
    assert run(path) == whole
    assert path.read_bytes().startswith(before.rpartition(b"\n")[0])
    assert len([line for line in caplog.messages if "a damaged line" in line]) == (
        name not in ("lines deleted", "tokens alone")
    )
    engine = Script()
    assert run(path, engine) == whole and engine.turns == []


@pytest.mark.parametrize("size", [1, 700, 2500])
def test_a_full_disk(tmp_path, size):
    """One line says which file; what was whole before it counts."""
    path, whole, engine = tmp_path / "e.jsonl", run(tmp_path / "whole.jsonl"), Script()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        with pytest.raises(OSError) as error:
            run(path, engine)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert re.match(
        rf"{tmp_path}/e\.(jsonl|columns): (File too large|No space left on device); ",
        storage_failure(error.value),
    )
    again = Script()
    assert run(path, again) == whole
    assert len(engine.turns) + len(again.turns) <= 12 + len(SPECS), (
        "each lost at most the one it could not write"
    )


def test_a_journal_that_another_process_writes(tmp_path):
    path = tmp_path / "e.jsonl"
    hold = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", hold, path], **pipes) as other:
        other.stdout.readline()
        with pytest.raises(ConfigError, match=rf"^{path}: another process is writing to it; "):
            run(path)
        other.communicate(b"\n")
    assert path.read_bytes() == b"" and all(t.correct for t in run(path))
