"""Which slices there are, and what is said of those that are not there."""

import pytest

from mirothinker_jax.config import ConfigError
from mirothinker_jax.parallel.tpu_flags import FLAGS, LEAST_EFFORT, generation_here, set_flags
from mirothinker_jax.planning.chips import GPUS, TPUS, parse, slices


@pytest.mark.parametrize(
    ("name", "devices"),
    [("v5p:4x4x4", 64), ("v6e:4x8", 32), ("v4:2x2x1", 4), ("tpu7x:2x2x2", 16), ("h100:8", 8)],
)
def test_a_slice(name, devices):
    assert parse(name).devices == devices
    assert parse(name).compiles == (not name.startswith("h100"))


@pytest.mark.parametrize("chip", [*TPUS.values(), *GPUS.values()], ids=lambda c: c.name)
def test_slices_grow(chip):
    sizes = [parse(f"{chip.name}:{s}").devices for s in slices(chip)]
    assert sizes == sorted(set(sizes)) and sizes[-1] >= 256


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("v5p:3x3x3", "plan knows v5p as v5p:2x2x1, v5p:2x2x2, v5p:2x2x4, v5p:2x4x4, v5p:4x4x4"),
        ("v5p", "plan knows v5p as v5p:2x2x1"),
        ("v6:4x4", "did you mean v6e"),
        ("abacus:8", "chips: v4, v5e, v5p, v6e, tpu7x, h100"),
        ("h100:7", "plan knows h100 as h100:1, h100:2, h100:4, h100:8"),
    ],
)
def test_a_slice_that_is_not_there_is_answered_with_those_that_are(name, said):
    with pytest.raises(ConfigError, match=said):
        parse(name)


@pytest.mark.parametrize("flags", [FLAGS, LEAST_EFFORT], ids=["all effort", "least"])
def test_no_generation_holds_a_copy_of_the_parameters(flags):
    assert set(flags) == set(TPUS)
    assert all("xla_jf_bf16_propagation=false" in of_chip for of_chip in flags.values())


def test_flags_of_a_generation_are_added_once_and_the_users_win():
    environment = {"LIBTPU_INIT_ARGS": "--xla_tpu_prefer_async_allgather_to_allreduce=false"}
    set_flags("v5p", environment)
    once = environment["LIBTPU_INIT_ARGS"]
    assert "collective_offload_all_gather=true" in once
    assert "prefer_async_allgather_to_allreduce=true" not in once
    set_flags("v5p", environment)
    assert environment["LIBTPU_INIT_ARGS"] == once
    assert generation_here({"TPU_ACCELERATOR_TYPE": "v5p-128"}) == "v5p"
    assert generation_here({"ACCELERATOR_TYPE": "v5litepod-16"}) == "v5e"
    assert generation_here({}) == ""
