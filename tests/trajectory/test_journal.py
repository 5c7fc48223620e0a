"""What a journal holds comes back as it was, to the last bit, and what is damaged counts as never written."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from mirothinker_jax.tasks.types import Verdict
from mirothinker_jax.trajectory import journal
from mirothinker_jax.trajectory.journal import History, Journal
from mirothinker_jax.trajectory.types import Segment, Source, Stop, Turn, TurnContext

TURN = Turn((1, 2), (-0.5, -0.25), True)


def test_a_round_trip_keeps_every_bit(tmp_path, make):
    rng = np.random.default_rng(0)
    draws = np.concatenate([-rng.exponential(size=200), [-0.0, -1e-38, np.float32(-1) / 3, -1e30]])
    logprobs = tuple(draws.astype(np.float32).tolist())
    said = 'Zürich "日本"\n\u2028<|im_end|> \\boxed{\U0001f600} \ud800'
    segments = (
        Segment(Source.PROMPT, (1, 2), (("system", said), ("user", said))),
        Segment(Source.POLICY, tuple(range(len(logprobs))), (("assistant", said),), logprobs),
        Segment(Source.OBSERVATION, ()),
        Segment(Source.PLACEHOLDER, (7,), (("tool", "hidden"),), hides=2),
        Segment(Source.POLICY, (8,), (("assistant", "a"),), (-1.0,)),
    )
    turns = (TurnContext(1, (0,)), TurnContext(4, (0, 1, 3), attempt=1))
    kept = [
        make("a", segments=segments, turns=turns, answer=None, stop=Stop.LENGTH, metrics={"max_calls": 3}),
        make("b", reward=-0.1, correct=True, reason="same", terms={"f1": 0.5}, policy_version=7),
        make("c", correct=None, metadata={"hops": 4, "tags": ["x", None]}),
    ]
    path = tmp_path / "deep" / "episodes.jsonl"
    journal.write(path, kept)
    read = journal.read(path)
    assert read == kept
    back = np.asarray(read[0].segments[1].logprobs, np.float32)
    assert back.tobytes() == np.asarray(logprobs, np.float32).tobytes()
    assert isinstance(read[0].stop, Stop) and isinstance(read[0].segments[0].source, Source)
    assert sorted(p.name for p in path.parent.iterdir()) == ["episodes.columns", "episodes.jsonl"]


def test_routes_are_columns_too(tmp_path, make):
    rng = np.random.default_rng(1)
    routes = rng.integers(0, 300, (5, 2, 3)).astype(np.int16)
    path = tmp_path / "step_000003.1-of-2.jsonl"
    journal.write(path, [make("0", routes=routes), make("1"), make("2", routes=routes[:4])])
    read = [t.routes for t in journal.read(path)]
    assert read[1] is None and read[0].dtype == np.int16
    np.testing.assert_array_equal(read[0], routes)
    np.testing.assert_array_equal(read[2], routes[:4])


def test_a_person_can_read_it(tmp_path, make):
    path = tmp_path / "episodes.jsonl"
    journal.write(path, [make(question="Where is Zürich?")])
    end, verdict = path.read_text(encoding="utf-8").splitlines()
    assert "Zürich" in end and json.loads(verdict[9:])["event"] == "verdict"
    record = json.loads(end[9:])
    assert record["stop"] == "answered"
    assert [s["source"] for s in record["segments"]] == ["prompt", "policy", "observation", "policy"]
    assert record["segments"][1]["messages"] == [["assistant", "call"]]


def test_an_episode_in_the_middle(tmp_path, make):
    path = tmp_path / "episodes.jsonl"
    with Journal(path) as written:
        written.turn("a", 0, "c0", TURN, "said")
        written.call("a", "a:1.0", {"text": "found", "failure": None})
        written.turn("a", 1, "c1", dataclasses.replace(TURN, complete=False), "more")
        written.turn("b", 0, "c0", TURN, "said")
        written.end(make("b"))
    history = History(path)
    assert history.unfinished.keys() == {"a"}
    known = history.unfinished["a"]
    assert known.turns == {"c0": TURN, "c1": dataclasses.replace(TURN, complete=False)}
    assert known.calls == {"a:1.0": {"text": "found", "failure": None}}
    assert not history.finished("a") and not history.finished("b")
    with Journal(path) as written:
        written.verdict("b", Verdict(None, "the judge is away"))
    assert not History(path).finished("b")
    with Journal(path) as written:
        written.verdict("b", Verdict(True, "right", {"f1": 1.0}))
    history = History(path)
    assert history.finished("b") and history.require("b").correct
    with Journal(path) as written:
        written.leave_out(["a"])
    assert not History(path).finished("a"), "what never ended is run"


@pytest.mark.parametrize("cut", [1, 30, 200])
def test_half_a_line_and_half_a_column(tmp_path, make, cut):
    """What a killed process or a machine that lost its last seconds leaves."""
    path = tmp_path / "episodes.jsonl"
    journal.write(path, [make("a"), make("b")])
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    assert [t.id for t in journal.read(path)] == ["a", "b"][: 2 if cut < 200 else 1]
    journal.write(path, [make("c")])
    assert [t.id for t in journal.read(path)][-1] == "c"
    columns = path.with_suffix(".columns")
    columns.write_bytes(columns.read_bytes()[:-3])
    assert [t.id for t in journal.read(path)][-1] != "c"
    columns.unlink()
    assert journal.read(path) == []


def test_a_damaged_line_is_said_and_skipped(tmp_path, make, caplog):
    path = tmp_path / "episodes.jsonl"
    journal.write(path, [make("a"), make("b")])
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0].replace(b"KTM", b"ZRH"), *lines[1:]]))
    assert [t.id for t in journal.read(path)] == ["b"]
    assert f"{path}:1: a damaged line" in caplog.text


def test_parts_of_any_number_of_processes(tmp_path, make):
    path = tmp_path / "step_3.jsonl"
    assert journal.share(path, 0, 1) == path
    assert [journal.share(path, i, 2).name for i in (0, 1)] == ["step_3.0-of-2.jsonl", "step_3.1-of-2.jsonl"]
    journal.write(path, [make("a")])
    journal.write(journal.share(path, 1, 2), [make("b")])
    journal.write(journal.share(path, 2, 3), [make("c")])
    journal.write(tmp_path / "step_33.jsonl", [make("d")])
    assert list(History(path)) == ["a", "b", "c"]


def test_log_probs_belong_to_sampled_tokens_only():
    for source, logprobs in ((Source.POLICY, (-0.5,)), (Source.OBSERVATION, (-0.5, -0.5))):
        with pytest.raises(AssertionError):
            Segment(source, (1, 2), (), logprobs)


def test_a_quarter_of_a_million_tokens_are_small(tmp_path, make):
    """A whole episode at 256K: columns, not JSON numbers."""
    sampled = (0.5,) * 90_000
    segments = (
        Segment(Source.POLICY, tuple(range(90_000)), (("assistant", "x"),), sampled),
        Segment(Source.OBSERVATION, tuple(range(172_144))),
    )
    path = tmp_path / "episodes.jsonl"
    journal.write(path, [make(segments=segments)])
    assert Path(path).stat().st_size < 1000
    assert path.with_suffix(".columns").stat().st_size == 4 * (262_144 + 90_000) + 1
