"""Adapters: they start as nothing, they alone are trained, and merged they give what they gave apart."""

import dataclasses
import functools
import operator

import jax
import numpy as np
import pytest
import tiny
from rows import DPO, GRPO, packed, preferences

from mirothinker_jax import convert
from mirothinker_jax.config import LORA_TARGETS, ConfigError, LoRAConfig, OptimizerConfig
from mirothinker_jax.models.hf import flatten, tensors
from mirothinker_jax.models.hf_files import Folder
from mirothinker_jax.models.qwen import combine, count_parameters, split
from mirothinker_jax.models.spec import ModelSpec
from mirothinker_jax.objectives.sft import sft
from mirothinker_jax.parallel.placement import to_global
from mirothinker_jax.trainer.checkpoint import Checkpoints, load_params, model_identity
from mirothinker_jax.trainer.optimizer import make_optimizer
from mirothinker_jax.trainer.state import init_state
from mirothinker_jax.trainer.step import make_logprobs, make_step

LORA = LoRAConfig(rank=3, alpha=6.0)
CASES = {"qwen3": tiny.QWEN3, "qwen2": tiny.QWEN2, "moe": tiny.MOE}
OPTIMIZER = make_optimizer(OptimizerConfig(learning_rate=1e-2, warmup_fraction=0.0), 8)


def adapted(config, **lora):
    return dataclasses.replace(config, lora=dataclasses.replace(LORA, **lora))


def spec(config, **mesh):
    return ModelSpec.build(config, tiny.VOCAB, tiny.mesh(**mesh))


def logprobs(model, params, rows):
    with jax.set_mesh(model.mesh):
        return np.asarray(make_logprobs(model)(jax.device_put(params, model.shardings), rows))


@pytest.mark.parametrize("config", CASES.values(), ids=CASES)
def test_a_fresh_adapter_changes_nothing_and_is_all_that_would_be_trained(config):
    model = spec(adapted(config))
    params = combine(model.init_adapters(0), tiny.params(config))
    assert jax.tree.structure(params) == jax.tree.structure(model.abstract)
    tiny.assert_close(
        logprobs(model, params, packed()), logprobs(spec(config), tiny.params(config), packed()), 1e-6
    )
    trained, frozen = split(model.config, params)
    assert {path[-1] for path, _ in flatten(trained)} == {"lora_a", "lora_b"}
    assert {path[-3] if path[-2] == "adapter" else None for path, _ in flatten(trained)} == set(LORA_TARGETS)
    assert count_parameters(frozen) == count_parameters(tiny.params(config))
    tiny.assert_equal(combine(trained, frozen), params)


def stepped(model, objective, rows, steps=2):
    """Parameters before and after some steps, from random adapters, on the host."""
    params = tiny.params(model.config)  # lora_b random too: all of the adapter matters
    state = init_state(model, OPTIMIZER, jax.device_put(params, model.shardings))
    step = make_step(model, objective, OPTIMIZER)
    with jax.set_mesh(model.mesh):
        placed = to_global(model.mesh, rows, 8, 1)
        for _ in range(steps):
            state, figures = step(state, *placed)
    assert int(figures["skipped"]) == 0
    return tiny.params(model.config), jax.device_get(state)


@pytest.mark.usefixtures("relaxed_promotion")  # optax mixes dtypes
@pytest.mark.parametrize(
    ("config", "objective", "rows"),
    [(tiny.QWEN3, sft, packed()), (tiny.QWEN2, DPO, preferences()), (tiny.MOE, GRPO, packed())],
    ids=["qwen3 sft", "qwen2 dpo", "moe grpo"],
)
def test_a_step_moves_the_adapters_and_nothing_else(config, objective, rows):
    model = spec(adapted(config), expert=2, fsdp=2, tensor=2)
    before, after = stepped(model, objective, rows)
    (trained, frozen), (moved, kept) = split(model.config, before), split(model.config, after.params)
    tiny.assert_equal(kept, frozen)
    assert all(np.any(a != b) for a, b in zip(jax.tree.leaves(moved), jax.tree.leaves(trained), strict=True))
    moments = sum(np.size(x) for x in jax.tree.leaves(after.opt_state) if np.ndim(x))
    assert moments == 2 * count_parameters(trained), "the optimizer keeps moments of frozen parameters"


@pytest.mark.slow
@pytest.mark.usefixtures("relaxed_promotion")
def test_a_step_on_many_devices_is_that_of_one():
    config = adapted(tiny.QWEN3)
    _, one = stepped(spec(config), sft, packed())
    _, many = stepped(spec(config, fsdp=2, tensor=2, context=2), sft, packed())
    tiny.assert_close(
        split(config, many.params)[0], split(config, one.params)[0], 1e-3
    )  # through Adam, whose first steps are signs


def test_targets_choose_the_layers():
    model = spec(adapted(tiny.QWEN3, targets=("q", "down")))
    named = {path[-3] for path, _ in flatten(split(model.config, model.abstract)[0])}
    assert named == {"q", "down"}


def run_of(tmp_path, config, params):
    """A run folder with one checkpoint of these parameters, as a stage writes it."""
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text("{}")
    identity = model_identity(config, tiny.VOCAB, tokenizer)
    state = init_state(spec(config), OPTIMIZER, params)
    record = {"model": dataclasses.asdict(config), "tokenizer": {"path": str(tokenizer)}}
    with Checkpoints(tmp_path / "run" / "sft" / "checkpoints", 1, identity) as checkpoints:
        checkpoints.save(state, {}, record)
    return str(tmp_path / "run"), identity


@pytest.mark.usefixtures("relaxed_promotion")
@pytest.mark.parametrize("config", CASES.values(), ids=CASES)
def test_an_export_is_the_merged_model(config, tmp_path):
    """The exported tensors, read as those of a model without adapters: the same log-probs."""
    lora = adapted(config, alpha=1.0)  # at 6 the logits are so steep that rounding shows
    params = tiny.params(lora)
    expected = logprobs(spec(lora), params, packed())
    run, _ = run_of(tmp_path, lora, params)
    assert convert.main(["--to", "hf", "--path", run, "--out", str(tmp_path / "exported")]) == 0
    files, listed = Folder(tmp_path / "exported"), tensors(config, tiny.VOCAB)
    files.check(listed)
    merged = jax.tree.map(lambda x: np.full_like(x, np.nan), tiny.params(config))
    for tensor in listed:
        leaf = functools.reduce(operator.getitem, tensor.path, merged)
        leaf[tensor.index] = tensor.ours(files.read(tensor.name))
    tiny.assert_close(logprobs(spec(config), merged, packed()), expected, 1e-5)


@pytest.mark.usefixtures("relaxed_promotion")
def test_a_run_with_adapters_starts_from_one_without_but_not_the_other_way(tmp_path):
    params = tiny.params(tiny.QWEN3)
    run, identity = run_of(tmp_path, tiny.QWEN3, jax.tree.map(lambda x: x.copy(), params))
    lora = spec(adapted(tiny.QWEN3), fsdp=2)
    loaded = load_params(run, lora, identity, seed=3)
    trained, frozen = split(lora.config, loaded)
    tiny.assert_equal(frozen, params)
    tiny.assert_equal(trained, lora.init_adapters(3))

    (tmp_path / "other").mkdir()
    run, identity = run_of(tmp_path / "other", adapted(tiny.QWEN3), tiny.params(adapted(tiny.QWEN3)))
    for config in (tiny.QWEN3, adapted(tiny.QWEN3, rank=4)):
        with pytest.raises(
            ConfigError, match=r"config.model.init_from: .* was written with model.lora .*rank.*: 3"
        ):
            load_params(run, spec(config), identity, seed=0)
