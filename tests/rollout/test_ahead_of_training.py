"""A real model that trains while it samples: the same as without, where nothing is ahead."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import tiny

from mirothinker_jax.agent.characters import Characters
from mirothinker_jax.agent.setting import Setting
from mirothinker_jax.config import (
    Config,
    GRPOConfig,
    OptimizerConfig,
    RolloutConfig,
    ToolsConfig,
    TrainingConfig,
)
from mirothinker_jax.config_tree import to_plain
from mirothinker_jax.data.chat import Chat
from mirothinker_jax.models.spec import ModelSpec
from mirothinker_jax.objectives.grpo import make_grpo
from mirothinker_jax.rollout.collect import Runtime
from mirothinker_jax.rollout.collector import Collector
from mirothinker_jax.rollout.hosts import LocalHost
from mirothinker_jax.rollout.local.device import Device
from mirothinker_jax.rollout.source import GRPOSource
from mirothinker_jax.tasks.types import Task, Verdict
from mirothinker_jax.tools.executor import ToolExecutor
from mirothinker_jax.trainer import loop
from mirothinker_jax.trainer.metrics import MetricsLog

pytestmark = pytest.mark.usefixtures("relaxed_promotion")
STEPS, LENGTH = 5, 192


class Folded(Characters):
    """Characters in the tiny model's vocabulary, several to a token."""

    vocab_size = tiny.VOCAB
    pad_id, im_start_id, im_end_id = 61, 62, 63

    def encode(self, text):
        return [ord(c) % 61 for c in text]

    encode_untrusted = encode

    def decode(self, ids):
        return "".join(chr(i + 61) for i in ids)


CODEC = Folded()
GRPO = GRPOConfig(
    group=4,
    questions=2,
    training=TrainingConfig(
        steps=STEPS,
        batch_size=4,
        microbatch_size=4,
        sequence_length=LENGTH,
        checkpoint_every=STEPS,
        log_every=1,
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_fraction=0.0),
    ),
)


async def by_parity(task, attempt):
    """Right and wrong by chance, and by the tokens alone."""
    return Verdict(sum(attempt.segments[-1].tokens) % 2 == 0)


@pytest.fixture
def train(tmp_path):
    """(name, settings) → final parameters, figures of the steps."""
    model = ModelSpec.build(tiny.QWEN3, tiny.VOCAB, tiny.mesh())
    rollout = RolloutConfig(slots=16, prefill_slots=8, prefill_tokens=64, decode_steps=4)
    device = Device(model, rollout, LENGTH, (CODEC.im_end_id,))
    setting = Setting(
        "", max_calls=0, context_tokens=LENGTH, turn_tokens=12, output_tokens=8, final_request="go"
    )
    tasks = [Task(f"q{n}", f"{n}?", "") for n in range(3)]

    def run(name, **settings):
        config = dataclasses.replace(GRPO, **settings)
        executor = ToolExecutor([], ToolsConfig(names=()), CODEC.truncate)
        runtime = Runtime(executor, Chat(CODEC), CODEC.decode, setting, by_parity)
        collector = Collector(LocalHost(device), executor, runtime)
        folder = tmp_path / name
        source = GRPOSource(
            config, tasks, collector, folder=folder / "rollouts", seed=0, microbatch_size=4, steps=STEPS
        )
        with MetricsLog(folder, enabled=True) as log:
            job = loop.Job(
                stage="grpo", folder=folder / "grpo", training=config.training, model=model,
                initial=lambda: tiny.params(tiny.QWEN3), source=source, objective=make_grpo(config), log=log,
                identity={}, config=to_plain(Config(model=tiny.QWEN3)),
            )  # fmt: skip
            try:
                state = loop.run(job)
            finally:
                source.close()
                collector.close()
            lines = [json.loads(line) for line in log.path.read_text().splitlines()]
        return jax.tree.map(np.asarray, state.params), lines

    return run


@pytest.mark.slow
def test_with_nothing_ahead_parameters_are_those_of_the_synchronous_run(train, monkeypatch):
    """Five steps, bit for bit; and with a step ahead they are others, within the bound."""
    synchronous, lines = train("synchronous")
    assert any(line["grad_norm"] > 0 for line in lines)
    with monkeypatch.context() as patch:
        patch.setattr(GRPOConfig, "streamed", True)
        streamed, more = train("streamed")
    tiny.assert_equal(streamed, synchronous)
    assert [line["reward"] for line in more] == [line["reward"] for line in lines]
    assert max(line["staleness/max"] for line in more) == 0
    ahead, figures = train("ahead", staleness=1, loss="clip")
    assert len(figures) == STEPS and max(line["staleness/max"] for line in figures) == 1
    assert all(line["logprob_gap"] < 1e-4 for line in figures[:1])
    assert any(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (ahead, synchronous)), strict=True))
