"""Recorded trajectories come back as they were, to the last bit."""

import json
from pathlib import Path

import numpy as np
import pytest

from mirothinker_jax.trajectory import store
from mirothinker_jax.trajectory.types import Segment, Source, Stop


def test_a_round_trip_keeps_every_bit(tmp_path, make):
    rng = np.random.default_rng(0)
    draws = np.concatenate([-rng.exponential(size=200), [-0.0, -1e-38, np.float32(-1) / 3, -1e30]])
    logprobs = tuple(draws.astype(np.float32).tolist())
    text = 'Zürich "日本"\n\u2028<|im_end|> \\boxed{\U0001f600}'
    segments = (
        Segment(Source.PROMPT, (1, 2), text),
        Segment(Source.POLICY, tuple(range(len(logprobs))), text, logprobs),
        Segment(Source.OBSERVATION, (), ""),
    )
    kept = [
        make("a", segments=segments, answer=None, stop=Stop.LENGTH, metrics={"max_calls": 3}),
        make("b", reward=-0.1, correct=True, hops=4, policy_version=7),
    ]
    path = tmp_path / "deep" / "episodes.jsonl"
    store.write(path, kept)
    read = list(store.read(path))
    assert read == kept
    back = np.asarray(read[0].segments[1].logprobs, np.float32)
    assert back.tobytes() == np.asarray(logprobs, np.float32).tobytes()
    assert isinstance(read[0].stop, Stop) and isinstance(read[0].segments[0].source, Source)
    assert [p.name for p in path.parent.iterdir()] == ["episodes.jsonl"]


def test_routes_lie_beside_the_record(tmp_path, make):
    rng = np.random.default_rng(1)
    routes = rng.integers(0, 300, (5, 2, 3)).astype(np.int16)
    path = tmp_path / "step_000003.1-of-2.jsonl"
    store.write(
        path, [make("grpo-3-1-0", routes=routes), make("grpo-3-1-1"), make("grpo-3-1-2", routes=routes[:4])]
    )
    read = [t.routes for t in store.read(path)]
    assert read[1] is None and read[0].dtype == np.int16
    np.testing.assert_array_equal(read[0], routes)
    np.testing.assert_array_equal(read[2], routes[:4])
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name, "step_000003.1-of-2.routes.npz"]
    assert "routes" not in path.read_text()


def test_a_person_can_read_it(tmp_path, make):
    path = tmp_path / "episodes.jsonl"
    store.write(path, [make(question="Where is Zürich?")])
    (line,) = path.read_text(encoding="utf-8").splitlines()
    assert "Zürich" in line
    record = json.loads(line)
    assert record["stop"] == "answered"
    assert [s["source"] for s in record["segments"]] == ["prompt", "policy", "observation", "policy"]
    assert ["logprobs" in s for s in record["segments"]] == [False, True, False, True]


def test_a_crash_while_writing_leaves_the_old_file(tmp_path, make):
    path = tmp_path / "episodes.jsonl"
    store.write(path, [make("old")])

    def broken():
        yield make("new")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        store.write(path, broken())
    assert [t.id for t in store.read(path)] == ["old"]
    store.write(path, [make("newer")])
    assert [t.id for t in store.read(path)] == ["newer"]


def test_log_probs_belong_to_sampled_tokens_only():
    for source, logprobs in ((Source.POLICY, (-0.5,)), (Source.OBSERVATION, (-0.5, -0.5))):
        with pytest.raises(AssertionError):
            Segment(source, (1, 2), "", logprobs)


def test_the_name_of_a_process_share():
    path = Path("run/step_3.jsonl")
    assert store.share(path, 0, 1) == path
    assert [store.share(path, i, 2).name for i in (0, 1)] == ["step_3.0-of-2.jsonl", "step_3.1-of-2.jsonl"]
