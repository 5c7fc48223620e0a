"""Exports are read by inspect_ai itself, in a process of its own: it patches event loops when it is imported."""

import datetime
import importlib.util
import json
import os
import subprocess
import sys

import pytest
from benchmark_files import CANARY, encode

from mirothinker_jax.agent.wire.formats import WIRES
from mirothinker_jax.config import ConfigError
from mirothinker_jax.evals.inspect_log import write_inspect_log
from mirothinker_jax.tools.spec import ToolCall
from mirothinker_jax.trajectory.types import Segment, Source, Stop, Trajectory, TurnContext

WHEN = datetime.datetime(2026, 3, 5, 12, tzinfo=datetime.UTC)
CALL = ToolCall("search_and_scrape_webpage", "google_search", {"q": 'a "b" 谁'})
READ = """
import json, sys
from inspect_ai.log import list_eval_logs, read_eval_log
found = []
for folder in sys.argv[1:]:
    (info,) = list_eval_logs(folder)
    log = read_eval_log(info)
    found.append([log.status, log.eval.model, log.eval.metadata, log.results.scores[0].metrics["accuracy"].value, [
        [s.id, s.epoch, s.target, s.scores["graded"].value if s.scores else None, s.error.message if s.error else None,
         [[m.role, m.text, m.reasoning if hasattr(m, "reasoning") else None,
           [c.function for c in (getattr(m, "tool_calls", None) or [])], getattr(m, "tool_call_id", None)]
          for m in s.messages]]
        for s in log.samples]])
print(json.dumps(found))
"""


def episode(number, call_format, **fields):
    said = [
        f"<think>look</think>\n\n{WIRES[call_format].render([CALL, CALL])}",
        "<use_mcp_tool> half" if call_format == "mcp" else "<tool_call> half",
        "<think>so</think>\\boxed{x}",
    ]
    seen = [("one", "two \udc80"), ("malformed call",)]
    segments = [Segment(Source.PROMPT, (1,), (("system", "be brief"), ("user", "Who?")))]
    for turn, text in enumerate(said):
        segments.append(Segment(Source.POLICY, (2,), (("assistant", text),), (-1.0,)))
        if turn < len(seen):
            segments.append(
                Segment(Source.OBSERVATION, (3,), tuple(("tool", result) for result in seen[turn]))
            )
    turns = tuple(TurnContext(i, tuple(range(i))) for i in (1, 3, 5))
    known = {
        "expected": "x",
        "answer": "x",
        "stop": Stop.ANSWERED,
        "calls": 2,
        "correct": True,
        "metadata": {"level": 1},
    }
    known |= {
        "failed_calls": 0,
        "malformed_calls": 1,
        "segments": tuple(segments),
        "turns": turns,
        "reason": "same",
    }
    return Trajectory(f"eval/q{number}#0", f"q{number}", "Who?", **known | fields)


def write(folder, call_format, **fields):
    broken = {"stop": Stop.INFRASTRUCTURE, "correct": None, "reason": "search is down"}
    runs = [[episode(0, call_format, **fields), episode(1, call_format, correct=False)]]
    runs.append(
        [episode(0, call_format, correct=None), episode(1, call_format, segments=(), turns=(), **broken)]
    )
    settings = {"task": "gaia", "model": "ours", "created": WHEN, "call_format": call_format}
    return write_inspect_log(
        folder, runs, **settings, figures={"accuracy": 0.5, "by_run": [1, 0], "low": None}, allow_encoded=True
    )


@pytest.mark.skipif(importlib.util.find_spec("inspect_ai") is None, reason="needs the extra view")
def test_inspect_reads_every_export(tmp_path):
    sealed = {"metadata": {"cipher": "sha256", "canary": CANARY}, "expected": encode("x")}
    write(tmp_path / "mcp", "mcp")
    write(tmp_path / "hermes", "hermes", **sealed)
    command = [sys.executable, "-c", READ, str(tmp_path / "mcp"), str(tmp_path / "hermes")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"HOME": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    mcp, hermes = json.loads(done.stdout)
    assert mcp[:4] == ["success", "ours", {}, 0.5] and hermes[2] == {"canary": [CANARY]}
    for log in (mcp, hermes):
        assert [sample[:2] for sample in log[4]] == [["q0", 1], ["q1", 1], ["q0", 2], ["q1", 2]]
        assert [sample[3] for sample in log[4]] == ["C", "I", None, None]
        assert [sample[4] for sample in log[4]] == [None, None, None, "search is down"]
        messages = log[4][0][5]
        roles = "system user assistant tool tool assistant tool assistant"
        assert [m[0] for m in messages] == roles.split()
        assert [m[3] for m in messages if m[0] == "assistant"] == [["google_search"] * 2, ["malformed"], []]
        results = [m[4] for m in messages if m[0] == "tool"]
        assert len(set(results)) == 3 and None not in results
        assert messages[-1][1] == "\\boxed{x}" and messages[4][1].startswith("two ")
    assert hermes[4][0][2] == encode("x") and mcp[4][0][2] == "x"


def test_the_calls_and_the_thoughts(tmp_path):
    path = write(tmp_path, "mcp")
    assert path == write(tmp_path, "mcp") and path.name.startswith("2026-03-05T12-00-00_gaia_")
    log = json.loads(path.read_text())
    turn = log["samples"][0]["messages"][2]
    assert turn["content"] == [{"type": "reasoning", "reasoning": "look"}]
    assert [call["arguments"] for call in turn["tool_calls"]] == [CALL.arguments] * 2
    assert log["samples"][0]["scores"]["graded"]["explanation"] == "same"
    assert log["samples"][3]["messages"] == [] and log["eval"]["config"] == {"epochs": 2}


def test_encoded_questions_are_not_exported_unasked(tmp_path):
    runs = [[episode(0, "mcp", metadata={"cipher": "sha256", "canary": CANARY})]]
    with pytest.raises(ConfigError, match="these questions were published encoded"):
        write_inspect_log(tmp_path, runs, task="b", model="m", created=WHEN, call_format="mcp")
    assert list(tmp_path.iterdir()) == []
