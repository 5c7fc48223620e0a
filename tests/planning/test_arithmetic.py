"""Flops, parameters and balance against figures that were found in other ways."""

import dataclasses

import jax
import pytest
import tiny

from mirothinker_jax.config import (
    Config,
    LoRAConfig,
    MeshConfig,
    ModelConfig,
    RolloutConfig,
    TrainingConfig,
    build,
)
from mirothinker_jax.models.presets import PRESETS
from mirothinker_jax.models.qwen import Qwen, count_parameters, split
from mirothinker_jax.planning.arithmetic import balance, memory, parameters, sampler, useful_flops


def model(name, **changes):
    return dataclasses.replace(build(ModelConfig, PRESETS[name]), **changes)


@pytest.mark.parametrize("config", [tiny.QWEN3, tiny.QWEN2, tiny.MOE], ids=["qwen3", "qwen2", "moe"])
def test_parameters_are_those_of_the_model(config):
    _, abstract, _ = Qwen.structure(config, tiny.VOCAB)
    assert parameters(dataclasses.replace(config, vocab_size=tiny.VOCAB)).total == count_parameters(abstract)


@pytest.mark.parametrize("name", ["qwen2.5-72b", "qwen3-8b", "qwen3-30b-a3b"])
def test_parameters_of_presets_are_those_of_the_model(name):
    config = model(name)
    _, abstract, _ = Qwen.structure(config, config.vocab_size)
    assert parameters(config).total == sum(leaf.size for leaf in jax.tree.leaves(abstract))


@pytest.mark.parametrize(
    ("name", "products", "attention"),
    # PFLOP for one row of 262,144 tokens: 6 per parameter, and causal attention, by hand from the published sizes.
    [("qwen2.5-72b", 114.3, 270.2), ("qwen3-8b", 11.9, 60.8), ("qwen3-30b-a3b", 4.8, 81.1)],
)
def test_flops_of_a_row_of_256k(name, products, attention):
    config = model(name)
    got = useful_flops(config, 262_144, 1) / 1e15
    assert got == pytest.approx(products + attention, rel=0.01)
    assert useful_flops(config, 262_144, 4) == pytest.approx(4 * useful_flops(config, 262_144, 1))


@pytest.mark.parametrize(("tokens", "devices"), [(262_144, 16), (1_048_576, 64), (4096, 8)])
def test_devices_of_a_row_have_the_same_work(tokens, devices):
    assert 1.0 <= balance(tokens, devices) <= 1.02


def planned(remat, rows=4, microbatch_size=4, ffn_tokens=0, **mesh):
    decoder = model("qwen3-8b", remat=remat, compute_dtype="bfloat16", ffn_tokens=ffn_tokens)
    config = Config(model=decoder, mesh=MeshConfig(**mesh))
    training = TrainingConfig(batch_size=rows, microbatch_size=microbatch_size, sequence_length=262_144)
    return dataclasses.replace(config, sft=dataclasses.replace(config.sft, training=training))


def test_memory_by_kind():
    """8.2e9 parameters over 64 devices, and what each policy keeps of 16,384 tokens in 36 layers."""
    mesh = {"data": 1, "fsdp": 4, "context": 16, "tensor": 1, "expert": 1}
    kinds = {
        remat: memory(planned(remat, context=16), "sft", mesh)
        for remat in ("full", "offload", "offload-all", "attention", "none")
    }
    full = kinds["full"]
    assert full.parameters == pytest.approx(8.19e9 * 4 / 64, rel=0.01)
    assert full.optimizer == 2 * full.parameters
    assert full.saved == 36 * 16_384 * 4096 * 2
    attended = 36 * 16_384 * 32 * (128 * 2 + 4)
    assert kinds["attention"].saved == full.saved + attended
    assert full.host == kinds["attention"].host == 0
    assert kinds["offload"].host == attended and kinds["offload-all"].host == full.saved + attended
    assert kinds["offload"].saved == full.saved + attended / 18, "two layers at a time"
    assert kinds["offload-all"].saved == kinds["offload-all"].host / 18
    assert kinds["none"].saved > kinds["attention"].saved
    chunks = memory(planned("full", context=16, ffn_tokens=1024), "sft", mesh)
    assert chunks.working < full.working and chunks.saved == full.saved


@pytest.mark.parametrize(("dtype", "one", "several"), [("float32", 4, 4), ("bfloat16", 2, 2 + 4)])
def test_micro_batches_gradients(dtype, one, several):
    """Bytes of a parameter's: they add up in place, in float32, or beside each micro-batch's own of another dtype."""
    mesh = {"data": 1, "fsdp": 4, "context": 16, "tensor": 1, "expert": 1}
    for rows, each in ((4, one), (8, several)):
        config = planned("full", rows=rows, context=16)
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, param_dtype=dtype))
        assert memory(config, "sft", mesh).gradients == each * parameters(config.model).total / 64


def test_adapters_are_all_that_is_trained():
    """Their count is the model's own; moments and gradients are of them alone, in float32."""
    config = dataclasses.replace(
        tiny.QWEN3, vocab_size=tiny.VOCAB, lora=LoRAConfig(rank=4), init_from="a run"
    )
    _, abstract, _ = Qwen.structure(config, tiny.VOCAB)
    trained, frozen = split(config, abstract)
    assert parameters(config).trained == count_parameters(trained)
    assert parameters(config).total == count_parameters(frozen)
    assert parameters(tiny.QWEN3).trained == parameters(tiny.QWEN3).total
    lora = dataclasses.replace(
        model("qwen3-8b"), lora=LoRAConfig(rank=16), init_from="a run", param_dtype="bfloat16"
    )
    whole = planned("full")
    mesh = {"data": 1, "fsdp": 1, "context": 1, "tensor": 1, "expert": 1}
    kinds = memory(dataclasses.replace(whole, model=lora), "sft", mesh)
    assert kinds.optimizer == 8 * parameters(lora).trained
    assert kinds.parameters == 2 * parameters(lora).total + 4 * parameters(lora).trained
    assert useful_flops(lora, 1000, 1) < useful_flops(model("qwen3-8b"), 1000, 1)


@pytest.mark.parametrize(
    ("tensor", "pages", "weights", "cache"), [(1, 0, 15.26, 36), (4, 0, 3.81, 36), (4, 3072, 3.81, 27)]
)
def test_what_an_engine_takes_of_each_of_four_devices(tensor, pages, weights, cache):
    """8B in bfloat16, whole or a quarter; four contexts of 256K tokens, one or a quarter of all on each; then three."""
    config = planned("full")
    config = dataclasses.replace(
        config,
        agent=dataclasses.replace(config.agent, context_tokens=262_144),
        rollout=RolloutConfig(slots=4, tensor=tensor, page_tokens=256, pages=pages),
    )
    found = sampler(config, devices=4)
    assert (found.weights / 2**30, found.pages / 2**30) == pytest.approx((weights, cache), rel=2e-3)
    assert found.moved == 151_936 * 4096 * 2 / tensor  # the embedding
