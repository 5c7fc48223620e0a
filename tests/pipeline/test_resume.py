"""A run that goes on: how many parameters it holds, what it reads, and what it does not do again.

Episodes are on record from the start, so that nothing is sampled: three stages of training, and no web.
"""

import collections
import dataclasses
import gc
import json
import shutil

import jax
import pytest
import tiny

from mirothinker_jax.config import (
    AgentConfig,
    Config,
    ConfigError,
    DataConfig,
    DPOConfig,
    EvalConfig,
    GRPOConfig,
    ModelConfig,
    OptimizerConfig,
    SFTConfig,
    TokenizerConfig,
    ToolsConfig,
    TrainingConfig,
    WorldConfig,
)
from mirothinker_jax.pipeline import preflight, prepare, stages
from mirothinker_jax.pipeline import run as pipeline
from mirothinker_jax.pipeline.inputs import open_inputs
from mirothinker_jax.trajectory import journal
from mirothinker_jax.trajectory.types import Segment, Source, Stop, Trajectory, TurnContext

pytestmark = pytest.mark.usefixtures("relaxed_promotion")

STAGES = ("sft", "dpo", "grpo")
EMBEDDING = (344, 16)  # of no other test, whose arrays may be alive in this process
TRAINING = TrainingConfig(
    steps=2, batch_size=2, microbatch_size=2, sequence_length=512, checkpoint_every=1, keep_checkpoints=3, log_every=1,
    optimizer=OptimizerConfig(schedule="constant", warmup_fraction=0.0),
)  # fmt: skip


def config(folder):
    return Config(
        run_dir=str(folder / "run"),
        stages=STAGES,
        data=DataConfig(path=str(folder / "data.jsonl"), shards=1, read_threads=0, open_bins=1),
        tokenizer=TokenizerConfig(vocab_size=300),
        model=ModelConfig(
            vocab_size=EMBEDDING[0], hidden=EMBEDDING[1], layers=1, heads=1, kv_heads=1, head_dim=8, ffn=16
        ),
        sft=SFTConfig(training=dataclasses.replace(TRAINING, sequence_length=64)),
        dpo=DPOConfig(training=TRAINING, questions=1, samples=2),
        grpo=GRPOConfig(
            training=dataclasses.replace(TRAINING, steps=0, epochs=2.0),
            questions=1,
            group=2,
            question_pool=1,
            kl_coef=0.1,
        ),
        agent=AgentConfig(
            context_tokens=256, turn_tokens=16, system_prompt_file=str(folder / "system.txt"), max_calls=1
        ),
        tools=ToolsConfig(names=("google_search",), output_tokens=16),
        world=WorldConfig(sources=("countries",), max_entities=20, max_hops=0),
        evaluation=EvalConfig(questions=0),
    )


def episode(name, correct):
    segments = (
        Segment(Source.PROMPT, (1, 2, 3), (("user", "?"),)),
        Segment(Source.POLICY, (10 + correct, 11, 12), (("assistant", "!"),), (-0.5, -1.0, -2.0)),
    )
    return Trajectory(
        id=name, question_id="q", question="?", expected="x", answer="x" if correct else "y", stop=Stop.ANSWERED,
        calls=0, failed_calls=0, malformed_calls=0, segments=segments, reward=float(correct), correct=correct,
        turns=(TurnContext(1, (0,)),),
    )  # fmt: skip


def begin(folder):
    """The config of a run whose episodes are on record."""
    folder.mkdir()
    (folder / "system.txt").write_text("Answer on $date.")
    roles = ({"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"})
    (folder / "data.jsonl").write_text(f"{json.dumps({'messages': roles})}\n" * 2)
    records = {"dpo/samples.jsonl": "dpo-0"}
    records |= {f"grpo/rollouts/step_{n:06d}.jsonl": f"grpo-{n}-{n}" for n in range(4)}
    for record, name in records.items():
        group = [episode(f"{name}-0", True), episode(f"{name}-1", False)]
        journal.write(folder / "run" / record, group)
    return config(folder)


class Watched:
    """A batch source; what is alive when it is first asked is noted."""

    def __init__(self, source, note):
        self._source, self._note = source, note

    def __getattr__(self, name):
        return getattr(self._source, name)

    def next(self, step, params):
        self._note(step)
        return self._source.next(step, params)


@pytest.fixture
def start(monkeypatch):
    """Runs a config; what each stage began with: its step, and the embeddings alive by kind of memory (parameters,
    AdamW's two averages, a reference)."""
    monkeypatch.setattr(prepare, "build_tools", lambda *_: [])
    for module in (prepare, preflight):
        monkeypatch.setattr(module, "make_mesh", lambda _: tiny.mesh())
    found: dict = {}

    def watched(name, make):
        def note(step):
            alive = [x.sharding.memory_kind for x in jax.live_arrays() if x.shape == EMBEDDING]
            found.setdefault(name, (step, collections.Counter(alive)))

        def stage(ready, before):
            made = make(ready, before)
            return made._replace(source=Watched(made.source, note))

        return stage

    for name in STAGES:
        monkeypatch.setitem(stages.STAGES, name, watched(name, stages.STAGES[name]))

    def run(given):
        found.clear()
        gc.collect()
        assert not [x for x in jax.live_arrays() if x.shape == EMBEDDING]
        pipeline.run(given, open_inputs(given))
        return dict(found)

    return run


def losses(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return sorted((line["stage"], line["step"], line["loss"]) for line in lines)


@pytest.mark.slow
def test_a_resumed_run_holds_as_many_parameters_as_a_fresh_one(start, tmp_path, monkeypatch):
    """Whether the stage before is done since long, as under a last stage that is lengthened, or was trained by the same
    process."""
    given, run = begin(tmp_path / "a"), tmp_path / "a" / "run"
    monkeypatch.setattr(pipeline, "today", lambda: "2026-03-05")
    fresh = start(given)
    monkeypatch.setattr(pipeline, "today", lambda: "2026-03-06")
    device = jax.devices()[0].default_memory().kind
    held = {
        "sft": {device: 3},
        "dpo": {device: 3},
        "grpo": {device: 3, "pinned_host": 1},
    }  # its reference waits
    assert fresh == {stage: (0, held[stage]) for stage in STAGES}
    before = losses(run)
    longer = dataclasses.replace(given.grpo, training=dataclasses.replace(given.grpo.training, epochs=3.0))
    given = dataclasses.replace(given, grpo=longer)
    assert start(given) == {"grpo": (2, held["grpo"])}
    undisturbed = losses(run)
    ((stage, step, _),) = set(undisturbed) - set(before)
    assert (stage, step, len(undisturbed)) == ("grpo", 2, 7)
    assert start(given) == {}, "what was done was done again"
    # SFT is done and its last step damaged, which DPO, to be done anew, starts from.
    (run / "sft" / "checkpoints" / "2" / "digests.json").write_text("")
    shutil.rmtree(run / "dpo" / "checkpoints")
    shutil.rmtree(run / "grpo" / "checkpoints" / "3")
    assert start(given) == {"sft": (1, held["sft"]), "dpo": (0, held["dpo"]), "grpo": (2, held["grpo"])}
    assert losses(run) == undisturbed
    # It keeps the day that it began with.
    assert json.loads((run / "config.json").read_text())["agent"]["date"] == "2026-03-05"
    later = dataclasses.replace(given, agent=dataclasses.replace(given.agent, date="2026-03-06"))
    with pytest.raises(ConfigError, match=r"agent\.date: 2026-03-05 → 2026-03-06"):
        start(later)
