"""Engines over the tiny model, compiled once."""

import functools

import pytest
import tiny
from turns import episodes, play

from mirothinker_jax.config import RolloutConfig
from mirothinker_jax.models.spec import ModelSpec
from mirothinker_jax.parallel.mesh import local_mesh
from mirothinker_jax.rollout.engine import Engine

CONTEXT, ENDS = 64, (63, 17)


@pytest.fixture(scope="session")
def engine():
    """By name: `wide` (6 slots), `narrow` (one slot, fed token by token), `mesh` (8 slots on 8 devices), `experts` (as
    wide, over a mixture of experts)."""

    @functools.cache
    def build(name):
        mesh, config = {
            "wide": (tiny.mesh(), RolloutConfig(slots=6, prefill_slots=3, prefill_tokens=8, decode_steps=4)),
            "narrow": (
                tiny.mesh(),
                RolloutConfig(slots=1, prefill_slots=1, prefill_tokens=1, decode_steps=3),
            ),
            "experts": (
                tiny.mesh(),
                RolloutConfig(slots=6, prefill_slots=3, prefill_tokens=8, decode_steps=4),
            ),
            "mesh": (local_mesh(), RolloutConfig(slots=8, prefill_slots=2, prefill_tokens=8, decode_steps=4)),
        }[name]
        shape = tiny.MOE if name == "experts" else tiny.QWEN3
        made = Engine(ModelSpec.build(shape, tiny.VOCAB, mesh), config, CONTEXT, ENDS)
        made.load(tiny.params(shape))
        return made

    return build


@pytest.fixture(scope="session")
def played(engine):
    """Ten episodes on six slots."""
    return play(engine("wide"), episodes(10))
