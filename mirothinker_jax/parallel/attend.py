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
from mirothinker_jax.parallel.sharding import constrain, spec
from mirothinker_jax.types import Spans

# (q [B, T, H, E], k [B, T, K, E], v [B, T, K, E], layer cache or None) → ([B, T, H, E], new layer cache)
Attend = Callable[..., tuple[jax.Array, jax.Array | tuple | None]]

SAVED = ring.SAVED  # names of attention's results, for rematerialisation policies
DEFAULT = ContextConfig()
# Of one layer's keys [slots, K, E, C] or values [slots, K, C, E].
CACHE_AXES = ("batch", "kv_heads", None, None)


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


def empty_cache(
    slots: int, kv_heads: int, size: int, context: int, dtype: Any
) -> tuple[jax.Array, jax.Array]:
    """One layer's (k [slots, K, E, C], v [slots, K, C, E]), zeros.

    Both products of attention then run over what lies together, which a CPU does two to four times as fast.
    """
    return jnp.zeros((slots, kv_heads, size, context), dtype), jnp.zeros(
        (slots, kv_heads, context, size), dtype
    )


def make_cached_attend(positions: jax.Array, slots: jax.Array | None, context: int) -> Attend:
    """Attention of new tokens over a KV cache that it also writes.

    Args:
      positions: int32 [B, T], each token's place in its slot; a place beyond the cache is not written.
      slots: int32 [B], the cache slot of each row; None: row i is slot i, which spares a gather.
      context: keys read, the first this many of each slot.

    The layer cache is that of `empty_cache`. A token sees the places up to its own.
    """

    def attend(q, k, v, layer_cache) -> tuple[jax.Array, Any]:
        batch, length, heads, size = q.shape
        kv_heads, groups = k.shape[2], heads // k.shape[2]
        rows = (jnp.arange(batch, dtype=jnp.int32) if slots is None else slots)[:, None]
        stored_k, stored_v = layer_cache
        stored_k = stored_k.at[rows, :, :, positions].set(k.astype(stored_k.dtype), mode="drop")
        stored_v = stored_v.at[rows, :, positions].set(v.astype(stored_v.dtype), mode="drop")
        cache = constrain(stored_k, *CACHE_AXES), constrain(stored_v, *CACHE_AXES)
        keys, values = cache if slots is None else (c[slots] for c in cache)
        keys, values = keys[..., :context], values[:, :, :context]
        # [B, K, G·T, E]: the queries of a key's head beside each other, one product for all of them.
        grouped = q.reshape(batch, length, kv_heads, groups, size).transpose(0, 2, 3, 1, 4)
        grouped = grouped.reshape(batch, kv_heads, groups * length, size)
        scores = jnp.einsum("bkqe,bkes->bkqs", grouped, keys, preferred_element_type=jnp.float32)
        seen = jnp.arange(context, dtype=jnp.int32)[None, None] <= positions[..., None]
        seen = jnp.broadcast_to(seen[:, None], (batch, groups, length, context)).reshape(
            batch, 1, -1, context
        )
        weights = jax.nn.softmax(jnp.where(seen, scores * size**-0.5, -1e30), axis=-1).astype(values.dtype)
        out = jnp.einsum("bkqs,bkse->bkqe", weights, values).reshape(batch, kv_heads, groups, length, size)
        return out.transpose(0, 3, 1, 2, 4).reshape(batch, length, heads, size), cache

    return attend
