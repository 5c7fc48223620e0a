"""Flags of the TPU compiler, which must be in the environment before jax starts; this module imports nothing of it.

Without the SparseCores' flags a v5p gathers the parameters of a layer by a synchronous all-reduce. With them the
SparseCores do it while the TensorCores compute.
"""

from __future__ import annotations

from collections.abc import MutableMapping

_OFFLOADED = (
    "all_gather",
    "2d_all_gather",
    "3d_all_gather",
    "reduce_scatter",
    "nd_reduce_scatter",
    "all_reduce",
)
_SPARSE_CORE = (
    *(f"xla_tpu_enable_sparse_core_collective_offload_{name}=true" for name in _OFFLOADED),
    "xla_tpu_prefer_async_allgather_to_allreduce=true",
    "xla_tpu_use_tc_device_shape_on_sc=true",
    "xla_sc_disable_megacore_partitioning=true",
    # Windowed einsums would cut the gathers up again.
    "xla_jf_spmd_threshold_for_windowed_einsum_mib=1000000",
)
# A pass keeps in bfloat16 what is only used in it. It so makes a second copy of all layers' float32 parameters, and
# holds it for the whole of a scan that casts them one layer at a time.
_EVERY = ("xla_jf_bf16_propagation=false",)
FLAGS: dict[str, tuple[str, ...]] = {  # by generation
    **dict.fromkeys(("v4", "v5e", "v6e", "tpu7x"), _EVERY),
    "v5p": (*_EVERY, *_SPARSE_CORE),
}
# Of a compiler that makes the least effort: what it then asks of the SparseCores, their own compiler aborts on.
_WITHOUT = tuple(f"xla_tpu_enable_sparse_core_collective_offload_{name}=false" for name in _OFFLOADED)
LEAST_EFFORT: dict[str, tuple[str, ...]] = FLAGS | dict.fromkeys(("v5p", "tpu7x"), (*_EVERY, *_WITHOUT))


def set_flags(
    generation: str,
    environment: MutableMapping[str, str],
    of_generations: dict[str, tuple[str, ...]] = FLAGS,
) -> None:
    """Adds a generation's flags to LIBTPU_INIT_ARGS; what stands there already wins."""
    given = environment.get("LIBTPU_INIT_ARGS", "")
    flags = [
        f"--{flag}" for flag in of_generations.get(generation, ()) if flag.partition("=")[0] not in given
    ]
    environment["LIBTPU_INIT_ARGS"] = " ".join([*flags, given]).strip()


def generation_here(environment: MutableMapping[str, str]) -> str:
    """Of the TPU that this process is on (v5p-128 → v5p; Google Cloud's v5litepod-16 → v5e); empty where nobody said.

    ACCELERATOR_TYPE is what launch/tpu_vm.sh asks the machine's metadata for, where the image does not set the other.
    """
    named = environment.get("TPU_ACCELERATOR_TYPE") or environment.get("ACCELERATOR_TYPE", "")
    name = named.partition("-")[0]
    return "v5e" if name == "v5litepod" else name
