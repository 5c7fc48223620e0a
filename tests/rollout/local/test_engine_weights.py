"""Parameters on their way to the engine: another layout, other devices, the dtype in which the model uses them."""

import dataclasses

import hf_checkpoint
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tiny

from mirothinker_jax.config import LoRAConfig
from mirothinker_jax.models.hf_files import Folder
from mirothinker_jax.models.hf_load import load_params
from mirothinker_jax.models.qwen import STACKED
from mirothinker_jax.models.spec import ModelSpec
from mirothinker_jax.rollout.local import weights
from mirothinker_jax.rollout.local.weights import _laid_out, _part, place
from mirothinker_jax.trainer.checkpoint import restore_params

NAMES = ["qwen2.5", "qwen3", "experts", "adapted experts"]
ADAPTED = dataclasses.replace(tiny.MOE, lora=LoRAConfig(rank=2, targets=("q", "v", "gate")))


@pytest.mark.parametrize("config", [tiny.QWEN2, tiny.QWEN3, tiny.MOE, ADAPTED], ids=NAMES)
@pytest.mark.parametrize(
    ("engine", "copies"),
    [({"tensor": 2}, 1), ({"data": 4, "tensor": 2}, 1), ({"data": 2, "tensor": 4}, 2), ({"tensor": 4}, 2)],
    ids=["others", "the same", "the same, heads twice", "others, heads twice"],
)
def test_every_leaf_arrives_whole_layer_by_layer(monkeypatch, config, engine, copies):
    """From fsdp 4 × tensor 2 to fewer devices, and to another layout of the same ones, where nothing passes through the
    host. Norms, adapters and what these are added to before the cast stay. More devices than key heads have each of
    these twice, beside each other."""
    config = dataclasses.replace(config, compute_dtype="bfloat16")
    trainer = ModelSpec.build(config, tiny.VOCAB, tiny.mesh(fsdp=4, tensor=2))
    same, engine = len(engine) == 2, ModelSpec.build(config, tiny.VOCAB, tiny.mesh(**engine), copies)
    params = tiny.params(config)
    trained = jax.device_put(params, trainer.shardings)
    with monkeypatch.context() as patch:
        if same:
            patch.delattr(weights, "to_host")
            patch.delattr(jax, "device_put")
        with jax.set_mesh(trainer.mesh):  # as it is around in a stage
            found = place(engine, trained)
    shapes = lambda: [f._cache_size() for f in (_laid_out, _part)]  # noqa: E731
    before = shapes()
    place(engine, jax.device_put(params, trainer.shardings))
    assert shapes() == before  # new parameters compile nothing
    assert len(found[STACKED]) == config.layers
    apart = jax.tree.map(lambda *x: np.stack(x), *found[STACKED])
    kinds = {}

    def compare(path, ours, theirs):
        names = [entry.key for entry in path]
        kinds["/".join(names[-3:])] = jnp.dtype(ours.dtype).name
        if {"k", "v"} & {*names} and names[-1] != "lora_a":  # [L, …, K, E]
            theirs = np.repeat(theirs, copies, axis=theirs.ndim - 2)
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs.astype(ours.dtype)))

    jax.tree_util.tree_map_with_path(compare, found | {STACKED: apart}, params)
    for name, kind in kinds.items():
        wide = name.endswith(("norm/weight", "lora_a", "lora_b")) or (config.lora.rank and "moe/gate" in name)
        assert kind == ("float32" if wide else "bfloat16"), name
    on_host = place(engine, jax.device_get(trained))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(on_host), jax.device_get(found))
    for leaf in jax.tree.leaves(found):
        assert leaf.sharding.mesh == engine.mesh


def _checkpoint(folder, params):
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        checkpointer.save((folder / "state").resolve(), args=ocp.args.PyTreeSave({"params": params}))


def test_files_have_key_heads_once(tmp_path):
    """A checkpoint and a Hugging Face folder, read for four devices that share two heads, and for one device."""
    config = hf_checkpoint.MODELS["qwen2"]
    folder = hf_checkpoint.save(tmp_path / "hf", config, hf_checkpoint.numbers(config, "float32"))
    alone = ModelSpec.build(config, config.vocab_size, tiny.mesh())
    shared = ModelSpec.build(config, config.vocab_size, tiny.mesh(tensor=4), key_copies=2)
    whole = load_params(Folder(folder), alone)
    expected = jax.device_get(place(shared, jax.device_get(whole)))
    assert expected[STACKED][0]["attention"]["k"]["kernel"].shape == (config.hidden, 4, config.head_dim)
    _checkpoint(tmp_path / "step", whole)
    for params in (load_params(Folder(folder), shared), restore_params(tmp_path / "step", shared)):
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(place(shared, params)), expected)
