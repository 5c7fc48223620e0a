"""Where attention kernels meet the mesh (those of experts do in experts.py).

Heads go over `tensor`, rows over the batch axes, queries over `context`. How a query meets the keys of other devices
of `context` is a strategy of ring_attention's; rows lie in the order of parallel/context.py.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import mirothinker_kernels.flash_attention.blockwise as xla  # pyright: ignore[reportMissingImports]
import mirothinker_kernels.flash_attention.gpu as gpu  # pyright: ignore[reportMissingImports]
import mirothinker_kernels.flash_attention.tpu as tpu  # pyright: ignore[reportMissingImports]
from mirothinker_kernels.flash_attention.mask import Mask  # pyright: ignore[reportMissingImports]
from mirothinker_kernels.ring_attention import ring, strategies  # pyright: ignore[reportMissingImports]
from mirothinker_kernels.ring_attention.zigzag import Zigzag  # pyright: ignore[reportMissingImports]

from mirothinker_jax.config import ContextConfig
from mirothinker_jax.parallel.sharding import spec
from mirothinker_jax.types import Spans

# (q [B, T, H, E], k [B, T, K, E], v [B, T, K, E], layer cache or None) → ([B, T, H, E], new layer cache)
Attend = Callable[..., tuple[jax.Array, jax.Array | tuple | None]]

SAVED = ring.SAVED  # names of attention's results, for rematerialisation policies
DEFAULT = ContextConfig()


def _by_platform(name: str) -> Callable:
    """Our kernels on a TPU and on a CUDA GPU, plain XLA elsewhere (CPUs, ROCm GPUs); by what is compiled for, whatever
    machine compiles."""
    choose: Callable = jax.lax.platform_dependent
    return partial(choose, tpu=getattr(tpu, name), cuda=getattr(gpu, name), default=getattr(xla, name))


KERNELS = ring.Kernels(_by_platform("forward"), _by_platform("backward"))


def make_attend(spans: Spans, config: ContextConfig = DEFAULT) -> Attend:
    """Attention for training rows with these spans, on the mesh in force (or without one)."""
    mesh = jax.sharding.get_abstract_mesh()
    devices = 1 if mesh.empty else mesh.shape["context"]

    def local(q, k, v, spans) -> Any:
        """One device's queries, [B, T, H, E]."""
        q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
        length = q.shape[2]
        if devices == 1:
            mask = Mask.of_spans(spans, jnp.arange(length, dtype=jnp.int32), aligned=True)
            return ring.attention(q, k, v, mask, ring.Ring(KERNELS))[0].swapaxes(1, 2)
        strategy = strategies.choose(length, q.shape[1], k.shape[1], devices, config.keys, config.ulysses)
        places = Zigzag(devices, length // 2).places(jax.lax.axis_index("context"))
        rows = Mask.of_spans(spans, places).rows
        return strategies.context_attention(q, k, v, rows, strategy, "context", KERNELS).swapaxes(1, 2)

    def attend(q, k, v, layer_cache) -> tuple[jax.Array, Any]:
        assert layer_cache is None, "training rows have no cache"
        if mesh.empty:
            return local(q, k, v, tuple(spans)), None
        heads, rows = spec("batch", "length", "heads", None), spec("batch", "length")
        # Every axis splits every operand, so there is no replication to check; the kernels' own arrays cannot say
        # over which axes they vary.
        sharded = jax.shard_map(
            local, in_specs=(heads, heads, heads, (rows,) * 3), out_specs=heads, check_vma=False
        )
        return sharded(q, k, v, tuple(spans)), None

    return attend
