"""Devices over the tiny model, compiled once, and what the trainer says of the turns that they sample."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import tiny

from mirothinker_jax.config import Config, RolloutConfig
from mirothinker_jax.data.packing import Sample, pack_rows
from mirothinker_jax.models.spec import ModelSpec
from mirothinker_jax.parallel import paged
from mirothinker_jax.rollout.local.device import Device
from mirothinker_jax.rollout.local.layout import sampling_model
from mirothinker_jax.trainer.step import make_logprobs

CONTEXT, ENDS = 64, (63, 17)
HOST = {"host_gib": 1e-3}
CONFIGS = {
    # Room for everything.
    "wide": RolloutConfig(slots=6, prefill_slots=3, prefill_tokens=8, decode_steps=4, page_tokens=8),
    # Room for one whole context, in pages that no block agrees with.
    "tight": RolloutConfig(
        slots=4, prefill_slots=2, prefill_tokens=7, decode_steps=3, page_tokens=4, pages=16
    ),
    "narrow": RolloutConfig(slots=1, prefill_slots=1, prefill_tokens=1, decode_steps=3, page_tokens=64),
    # Pages go to the host and come back: room for one whole context and a bit, on each device.
    "experts": RolloutConfig(
        slots=4, prefill_slots=2, prefill_tokens=8, decode_steps=4, page_tokens=8, pages=10, **HOST
    ),
    "mesh": RolloutConfig(
        slots=8, tensor=2, prefill_slots=8, prefill_tokens=8, decode_steps=4, page_tokens=16, pages=20, **HOST
    ),
    # Of each four, two share a key head, and split its pages.
    "copies": RolloutConfig(
        slots=8, tensor=4, prefill_slots=8, prefill_tokens=8, decode_steps=4, page_tokens=16, pages=10, **HOST
    ),
    "exact": RolloutConfig(
        slots=4,
        prefill_slots=2,
        prefill_tokens=4,
        decode_steps=4,
        page_tokens=8,
        pages=12,
        deterministic=True,
    ),
}
# And with room in the host's memory.
for name in ("tight", "exact"):
    CONFIGS[f"{name}, host"] = dataclasses.replace(CONFIGS[name], **HOST)


@pytest.fixture(scope="session")
def device():
    """By the names above; `mesh` and `copies` are on eight devices, `experts` is a mixture of experts."""

    @functools.cache
    def build(name):
        shape = tiny.MOE if name == "experts" else tiny.QWEN3
        settings = Config(model=shape, rollout=CONFIGS[name])
        devices = jax.devices()[: 8 if name in ("mesh", "copies") else 1]
        model = sampling_model(settings, tiny.VOCAB, devices)
        with pytest.MonkeyPatch.context() as patch:
            if name in ("mesh", "exact"):
                patch.setattr(
                    paged, "CPU_BYTES", 1
                )  # attention takes a row at a time, as it does of large pages
            made = Device(model, CONFIGS[name], CONTEXT, ENDS, record_routes=name == "experts")
        made.load(tiny.params(shape))
        return made

    return build


@pytest.fixture(scope="session")
def trainer():
    """Log-probs of every sampled token of conversations, by the trainer's forward pass over packed rows."""
    model = ModelSpec.build(tiny.QWEN3, tiny.VOCAB, tiny.mesh())
    logprobs = make_logprobs(model)

    def of(conversations, params=None):
        samples = [Sample(tokens, trained) for tokens, trained in conversations]
        rows = jax.tree.map(lambda *x: np.concatenate(x), *(pack_rows([s], 64) for s in samples))
        with jax.set_mesh(model.mesh):
            values = np.asarray(logprobs(tiny.params(tiny.QWEN3) if params is None else params, rows))
        return [row[weights > 0] for row, weights in zip(values, rows.weights, strict=True)]

    return of
