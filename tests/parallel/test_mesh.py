"""The mesh: sizes, the one-line errors, and which rows a process loads."""

import jax
import numpy as np
import pytest
import tiny

from mirothinker_jax.config import ConfigError, MeshConfig
from mirothinker_jax.models.spec import ModelSpec
from mirothinker_jax.parallel import placement
from mirothinker_jax.parallel.mesh import check_rows, local_mesh, make_mesh, sizes
from mirothinker_jax.parallel.placement import data_shard, gather_state, to_global, to_host
from mirothinker_jax.parallel.sharding import batch_sharding, constrain, spec
from mirothinker_jax.types import Batch


def test_the_free_axis_takes_what_the_others_leave():
    assert sizes(MeshConfig(), 8) == {"data": 1, "fsdp": 8, "context": 1, "tensor": 1, "expert": 1}
    assert sizes(MeshConfig(data=-1, fsdp=2, tensor=2), 8)["data"] == 2
    assert sizes(MeshConfig(fsdp=1), 1) == dict.fromkeys(("data", "fsdp", "context", "tensor", "expert"), 1)


@pytest.mark.parametrize(
    ("config", "devices", "message"),
    [
        (MeshConfig(data=3), 8, "data=3 × fsdp=-1 does not fit 8 device"),
        (MeshConfig(data=2, fsdp=2), 8, "data=2 × fsdp=2 does not fit 8 device"),
        (MeshConfig(fsdp=1), 2, "all axes 1 does not fit 2 device"),
    ],
)
def test_sizes_that_do_not_fit_the_devices(config, devices, message):
    with pytest.raises(ConfigError, match=rf"^config\.mesh: {message}.*set one axis to -1") as error:
        sizes(config, devices)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"tensor": 8}, r"config\.mesh\.tensor is 8, which does not divide model\.heads \(4\)"),
        ({"tensor": 4}, r"config\.mesh\.tensor is 4, which does not divide model\.kv_heads \(2\)"),
        ({"fsdp": 5}, r"config\.mesh\.fsdp × context is 5, which does not divide model\.hidden \(32\)"),
    ],
)
def test_a_model_that_does_not_divide_over_the_mesh(shape, message):
    with pytest.raises(ConfigError, match=rf"^{message}$"):
        ModelSpec.build(tiny.QWEN3, tiny.VOCAB, tiny.mesh(**shape))


def test_a_vocabulary_that_does_not_divide_over_the_mesh():
    with pytest.raises(ConfigError, match=r"mesh\.tensor is 2, which does not divide vocabulary \(63\)"):
        ModelSpec.build(tiny.QWEN3, 63, tiny.mesh(tensor=2))


def test_rows_that_do_not_divide_over_the_batch_axes():
    mesh = tiny.mesh(data=2, fsdp=2, context=2)
    check_rows(mesh.shape, "sft.training.microbatch_size", 8)
    with pytest.raises(ConfigError, match=r"^config\.sft\.training\.microbatch_size is 6, .* = 4; use 8$"):
        check_rows(mesh.shape, "sft.training.microbatch_size", 6)


def test_all_five_axes_are_always_there_and_local_devices_lie_along_data():
    assert dict(make_mesh(MeshConfig()).shape) == sizes(MeshConfig(), 8)
    assert local_mesh().shape["data"] == 8
    assert dict(local_mesh(2).shape) == sizes(MeshConfig(data=4, fsdp=1, tensor=2), 8)


def test_constrain_outside_a_mesh_changes_nothing():
    x = np.ones((2, 3), np.float32)
    assert constrain(x, "batch", "length") is x
    assert spec("batch", None, "vocab") == jax.sharding.PartitionSpec(
        ("data", "fsdp", "expert"), None, "tensor"
    )


def numbered(rows, length=8):
    """A batch whose token [r, t] is 100 r + t."""
    batch = Batch.empty(rows, length)
    batch.tokens[:] = 100 * np.arange(rows)[:, None] + np.arange(length)
    batch.weights[:] = 1.0
    return batch


@pytest.mark.parametrize("shape", [{}, {"data": 2, "fsdp": 2, "context": 2}, {"expert": 2, "tensor": 2}])
@pytest.mark.parametrize(
    ("rows", "least", "micro_batches"),
    [
        (4, 1, 1),
        (8, 2, 2),
        (12, 2, 4),  # three are needed: rounded up to a power of two
        (4, 3, 3),
        (0, 2, 2),
    ],
)
def test_rows_keep_their_place_and_padding_fills_the_rest(shape, rows, least, micro_batches):
    mesh = tiny.mesh(**shape)
    local = numbered(rows)
    order = [0, 1, 6, 7, 2, 3, 4, 5] if "context" in shape else [*range(8)]
    batch, used = to_global(mesh, local, 4, least)
    assert used == rows // 4 and used.dtype == np.int32
    assert batch.shape == (micro_batches, 4, 8)
    assert batch.tokens.sharding.is_equivalent_to(batch_sharding(mesh, leading=1), 3)
    flat = jax.tree.map(lambda x: np.asarray(x).reshape(-1, 8), batch)
    rest = Batch.empty(4 * micro_batches - rows, 8)
    tiny.assert_equal(jax.tree.map(lambda x: x[:rows], flat), jax.tree.map(lambda x: x[:, order], local))
    tiny.assert_equal(jax.tree.map(lambda x: x[rows:], flat), jax.tree.map(lambda x: x[:, order], rest))


def test_one_process_holds_all_rows():
    assert data_shard(tiny.mesh(data=2, context=4)) == (0, 1)
    state = {"shards": {"0": {"next": 3}}}
    assert gather_state(state) == state and to_host(state) is state


class HeldBy:
    """The batch sharding as a process that owns only some of the mesh's devices sees it."""

    def __init__(self, sharding, devices):
        self._sharding, self._devices = sharding, devices

    def addressable_devices_indices_map(self, shape):
        return {d: i for d, i in self._sharding.devices_indices_map(shape).items() if d.id in self._devices}


@pytest.mark.parametrize(
    ("shape", "devices", "expected"),
    [
        ({"data": 8}, range(4), (0, 2)),
        ({"data": 8}, range(4, 8), (1, 2)),
        ({"data": 4, "context": 2}, (2, 3), (1, 4)),
        ({"data": 2, "context": 4}, (0, 1), (0, 2)),  # half of row block 0's tokens: all of its rows
        ({"data": 2, "context": 4}, (6, 7), (1, 2)),
        ({"context": 8}, (3,), (0, 1)),
    ],
)
def test_which_rows_one_of_several_processes_loads(monkeypatch, shape, devices, expected):
    mesh = tiny.mesh(**shape)
    monkeypatch.setattr(placement, "batch_sharding", lambda m: HeldBy(batch_sharding(m), devices))
    assert data_shard(mesh) == expected


@pytest.mark.parametrize("devices", [(0, 2), (1, 2), (0, 1, 2)])
def test_rows_that_are_not_one_block_are_refused(monkeypatch, devices):
    mesh = tiny.mesh(data=8)
    monkeypatch.setattr(placement, "batch_sharding", lambda m: HeldBy(batch_sharding(m), devices))
    with pytest.raises(
        ConfigError, match=r"^config\.mesh: this process holds rows \[.*\] of 8, not one block"
    ):
        data_shard(mesh)
