"""What the local engine's settings may be on the devices that there are."""

import dataclasses

import jax
import pytest
import tiny

from mirothinker_jax.config import Config, ConfigError, RolloutConfig
from mirothinker_jax.models.spec import ModelSpec
from mirothinker_jax.rollout.local.device import Device
from mirothinker_jax.rollout.local.layout import check_tensor, sampling_model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slots": 6}, r"^config\.rollout\.slots is 6, not a multiple of .* = 4; use 8$"),
        ({"pages": 28}, r"rollout\.pages gives 7 pages of 8 tokens to a device, .* of 64; give 32 or more$"),
        ({"deterministic": True, "prefill_tokens": 3}, r"page_tokens \(8\) must be a multiple of .* \(3\)$"),
        (
            {"host_gib": 1e-9},
            r"rollout\.host_gib is 1e-09, less than a page of \d+ bytes for each of 4 devices; give 0",
        ),
    ],
)
def test_settings_that_cannot_work(change, message):
    model = ModelSpec.build(tiny.QWEN3, tiny.VOCAB, tiny.mesh(data=4))
    with pytest.raises(ConfigError, match=message):
        Device(model, RolloutConfig(**{"slots": 8, "page_tokens": 8} | change), 64, (63,))


@pytest.mark.parametrize(
    ("change", "tensor", "devices", "message"),
    [
        ({}, 3, 8, r"is 3, which does not divide the devices of this process \(8\); give 1 or 2 or 4$"),
        ({}, 8, 8, r"is 8, which does not divide model\.heads \(4\); give 1 or 2 or 4$"),
        ({}, 2, 1, r"is 2, which does not divide the devices of this process \(1\); give 1$"),
        (
            dict(heads=12, kv_heads=6),
            4,
            8,
            r"is 4, which neither divides model\.kv_heads \(6\) nor is .*; give 1 or 2$",
        ),
    ],
)
def test_a_model_that_cannot_be_split(change, tensor, devices, message):
    config = Config(model=dataclasses.replace(tiny.QWEN3, **change), rollout=RolloutConfig(tensor=tensor))
    with pytest.raises(ConfigError, match=r"^config\.rollout\.tensor " + message):
        sampling_model(config, tiny.VOCAB, jax.devices()[:devices])


@pytest.mark.parametrize(
    ("width", "page", "on_tpu", "message"),
    [
        (
            8,
            7,
            False,
            r"2 devices split a page: rollout\.page_tokens \(7\) must be a multiple of 2; give 1 or 2$",
        ),
        (8, 32, True, r"2 TPUs split a page: model\.head_dim \(8\) must be a multiple of 128; give 1 or 2$"),
        (
            128,
            24,
            True,
            r"2 devices split a page: rollout\.page_tokens \(24\) must be a multiple of 16; give 1 or 2$",
        ),
        (128, 32, True, None),
    ],
)
def test_pages_that_cannot_be_split(width, page, on_tpu, message):
    """Tiles of a TPU are whole: eight rows of 128 float32."""
    rollout = RolloutConfig(tensor=4, page_tokens=page)
    check = lambda: check_tensor(rollout, dataclasses.replace(tiny.QWEN3, head_dim=width), 64, 8, on_tpu)  # noqa: E731
    if message is None:
        return check()
    with pytest.raises(ConfigError, match=r"^config\.rollout\.tensor is 4, by which " + message):
        check()
