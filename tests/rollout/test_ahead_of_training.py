"""A real model that trains while it samples: the same as without, where nothing is ahead; and its own log-probs."""

import asyncio
import dataclasses
import json

import jax
import numpy as np
import pytest
import tiny
from turns import Episode

from mirothinker_jax.agent.characters import Characters
from mirothinker_jax.agent.policy import Request
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
from mirothinker_jax.data.packing import Sample, pack_rows
from mirothinker_jax.models.spec import ModelSpec
from mirothinker_jax.objectives.grpo import make_grpo
from mirothinker_jax.rollout.collect import Runtime
from mirothinker_jax.rollout.collector import Collector
from mirothinker_jax.rollout.engine import Engine
from mirothinker_jax.rollout.sampler import Sampler
from mirothinker_jax.rollout.source import GRPOSource
from mirothinker_jax.tasks.types import Task, Verdict
from mirothinker_jax.tools.executor import ToolExecutor
from mirothinker_jax.trainer import loop
from mirothinker_jax.trainer.metrics import MetricsLog
from mirothinker_jax.trainer.step import make_logprobs

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
    engine = Engine(model, rollout, LENGTH, (CODEC.im_end_id,))
    setting = Setting(
        "", max_calls=0, context_tokens=LENGTH, turn_tokens=12, output_tokens=8, final_request="go"
    )
    tasks = [Task(f"q{n}", f"{n}?", "") for n in range(3)]

    def run(name, **settings):
        config = dataclasses.replace(GRPO, **settings)
        executor = ToolExecutor([], ToolsConfig(names=()), CODEC.truncate)
        runtime = Runtime(executor, Chat(CODEC), CODEC.decode, setting, by_parity)
        collector = Collector(lambda: engine, executor, runtime)
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


def test_each_token_is_of_the_weights_that_its_version_names(engine):
    """Weights change in the middle of turns: log-probs before are the old ones', those after the new ones'."""
    feeds = [(np.arange(1, 20) % 60, 40)]
    both = {version: tiny.params(tiny.QWEN3, seed=version) for version in (0, 1)}
    episodes = [Episode(100 + i, feeds) for i in range(5)]

    async def play():
        engine("wide").load(both[0])
        async with Sampler(engine("wide")) as sampler:
            tasks = [asyncio.create_task(e.play(sampler)) for e in episodes]
            while sampler.sampled_tokens < 50:
                await asyncio.sleep(0)
            await sampler.publish(both[1], 1)
            await asyncio.gather(*tasks)
            again = Request("again", tuple(episodes[0].tokens[:19].tolist()), 2, 3)
            assert (await sampler.generate(again)).versions == (1, 1)
        engine("wide").load(tiny.params(tiny.QWEN3))

    asyncio.run(play())
    model = ModelSpec.build(tiny.QWEN3, tiny.VOCAB, tiny.mesh())
    rows = jax.tree.map(
        lambda *x: np.concatenate(x), *[pack_rows([Sample(e.tokens, e.trained)], 64) for e in episodes]
    )
    with jax.set_mesh(model.mesh):
        expected = {version: np.asarray(make_logprobs(model)(both[version], rows)) for version in both}
    changed = 0
    for number, episode in enumerate(episodes):
        (turn,) = episode.turns
        assert list(turn.versions) == sorted(turn.versions) and len(turn.versions) == len(turn.tokens)
        own = rows.weights[number] > 0
        whole = np.where(np.asarray(turn.versions) == 1, expected[1][number][own], expected[0][number][own])
        np.testing.assert_allclose(turn.logprobs, whole, atol=1e-4)
        changed += len(set(turn.versions)) > 1
    assert changed >= 2
