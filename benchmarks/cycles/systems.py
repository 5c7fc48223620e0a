"""The kernels whose cycles are read, each (function, shapes): attention by ours, jax's splash attention and tokamax's,
and our products of experts.

Attention gets bfloat16 [heads, tokens, 128]. The peers' kernels under a full mask are built without tables, which they
take for "run every block, mask none"; their tables for other masks read as zeros in the simulator.

Operands are in HBM, where a training step's are: the compiler would keep those of so small a program in fast memory.
From the peers' only their large reservation keeps it (simulator.VMEM_KIB): what is pinned cannot be differentiated.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from simulator import EXPERT, PAGED, SIZE

KV_HEADS = 2  # keys and values of so many heads


def ours(way: str, mask: str, length: int, heads: int, sizes: dict[str, int]) -> tuple[Any, list]:
    """sizes: of strips.Blocks; those that are not there, the table's, but for the segment: all keys are one then."""
    from mirothinker_kernels.flash_attention import (  # pyright: ignore[reportMissingImports]
        backward,
        forward,
        strips,
        tiling,
    )
    from mirothinker_kernels.flash_attention import (  # pyright: ignore[reportMissingImports]
        mask as masks,
    )
    from mirothinker_kernels.pallas import in_hbm, vmem_bytes  # pyright: ignore[reportMissingImports]

    blocks = strips.Blocks(**{**vars(tiling.largest(way)), **sizes})
    segment = min(length, sizes.get("segment", length))
    blocks = strips.Blocks(**{**vars(blocks), "segment": max(segment, blocks.strip)})
    at_once = segment if way == "backward" else length  # keys of a call of the kernel
    blocks = tiling.fit_blocks(blocks, length, at_once, exact=mask != "causal")
    # Tables read as zeros: all queries see all strips of keys.
    spans = [((1, 4, length), jnp.int32), ((), jnp.int32)] if mask == "spans" else []
    half, single = jnp.bfloat16, jnp.float32
    rows, keys = (heads, length, SIZE), (KV_HEADS, at_once, SIZE)
    turned, lanes = (KV_HEADS, SIZE, at_once), (heads, 1, length)
    if way == "forward":
        return (
            lambda *a: forward.forward(
                *in_hbm(a[:3], False), masks.Mask(mask, *a[3:]), blocks, vmem_bytes=vmem_bytes()
            ),
            [(rows, half), (keys, half), (turned, half), *spans],
        )
    shapes = [(rows, half), (rows, half), (lanes, single), (lanes, single), (keys, half), (turned, half)]
    shapes += [(keys, half), (rows, single), (keys, single), (keys, single)]

    def run(*arrays):
        *given, dk, dv = arrays[:10]  # which it pins to HBM itself
        of_row = masks.Mask(mask, *arrays[10:])
        return backward.backward(*given, (dk, dv), 0, of_row, blocks, vmem_bytes=vmem_bytes())

    return run, [*shapes, *spans]


def splash(way: str, mask: str, length: int, heads: int, sizes: dict[str, int]) -> tuple[Any, list]:
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask_info as info

    assert mask == "full", mask
    none = info.MaskInfo(None, None, None, None, None)
    q, kv, compute = sizes["queries"], sizes["keys"], sizes["compute"]
    attention = kernel.SplashAttentionKernel(
        none,
        none,
        none,
        is_mqa=False,
        block_sizes=kernel.BlockSizes(q, kv, compute, q, kv, compute, q, kv),
        save_residuals=False,
        mask_value=kernel.DEFAULT_MASK_VALUE,
        attn_logits_soft_cap=None,
        residual_checkpoint_name=None,
        mask_function=None,
        interpret=False,
    )
    return _of_peer(attention, way, length, heads)


def tokamax(way: str, mask: str, length: int, heads: int, sizes: dict[str, int]) -> tuple[Any, list]:
    import tokamax._src.ops.experimental.tpu.splash_attention.base as base  # pyright: ignore[reportMissingImports]
    import tokamax._src.ops.experimental.tpu.splash_attention.splash_attention_kernel as kernel  # pyright: ignore[reportMissingImports]
    import tokamax._src.ops.experimental.tpu.splash_attention.splash_attention_mask_info as info  # pyright: ignore[reportMissingImports]

    assert mask == "full", mask
    none = info.MaskInfo(None, None, None, None, None, None, None)
    q, kv, compute = sizes["queries"], sizes["keys"], sizes["compute"]
    attention = kernel.SplashAttentionKernel(
        none,
        none,
        # Of exponentials of base 2, its default, the simulator does not take the program (libtpu 0.0.42 and 0.0.50).
        config=kernel.SplashConfig(q, kv, compute, q, kv, compute, use_base2_exp=way == "backward"),
        is_mqa=False,
        save_residuals=False,
        mask_value=base.DEFAULT_MASK_VALUE,
        mask_function=None,
        fwd_mask_sparsity=1.0,
        dkv_mask_sparsity=1.0,
    )
    return _of_peer(attention, way, length, heads)


def _of_peer(attention: Any, way: str, length: int, heads: int) -> tuple[Any, list]:
    shapes = [((n, length, SIZE), jnp.bfloat16) for n in (heads, KV_HEADS, KV_HEADS)]
    if way == "forward":
        return attention, shapes

    def backward(q, k, v, d_out):
        return jax.vjp(attention, q, k, v)[1](d_out)

    return backward, [*shapes, shapes[0]]


def experts(way: str, mask: str, length: int, heads: int, sizes: dict[str, int]) -> tuple[Any, list]:
    """length: places, in tiles as large as the chip wants them. The table of who has which tile reads as zeros: all are
    of one expert."""
    from mirothinker_kernels.grouped_matmul import inner, layout, outer  # pyright: ignore[reportMissingImports]
    from mirothinker_kernels.grouped_matmul.tpu import largest_tile  # pyright: ignore[reportMissingImports]
    from mirothinker_kernels.pallas import in_hbm  # pyright: ignore[reportMissingImports]

    assert mask == "full" and not sizes, (mask, sizes)
    (wide, narrow), half = EXPERT, jnp.bfloat16
    rows, thin, weights = (length, wide), (length, narrow), (heads, wide, narrow)

    def run(expert, padding, *arrays):
        none = jnp.zeros((1, 1), jnp.int32)  # the kernels look at the table of tiles alone
        places = layout.Layout(none, none[0], expert, padding)
        arrays = in_hbm(arrays, False)
        if way == "outer":
            return outer.outer_sums(*arrays, places, heads)
        pairs = list(zip(arrays[::2], arrays[1::2], strict=True))
        return inner.products(pairs, places, turned=way == "turned")

    shapes = {"inner": [rows, weights], "turned": [thin, weights] * 2, "outer": [rows, thin]}[way]
    tables = [((length // largest_tile(),), jnp.int32), ((), jnp.int32)]
    return run, [*tables, *((shape, half) for shape in shapes)]


def pages(way: str, mask: str, length: int, heads: int, sizes: dict[str, int]) -> tuple[Any, list]:
    """length: keys of each row, a device's share of a context's. Which page is which reads as zeros: all are the first.
    Pages of 64 tokens, which is two devices' share of 128."""
    from mirothinker_kernels.paged_attention import tpu_part  # pyright: ignore[reportMissingImports]

    assert mask == "full" and not sizes, (mask, sizes)
    size, half = 64, jnp.bfloat16
    rows, tokens = PAGED[way]
    of_pages = length // size
    blocks = tpu_part.fit_blocks(tokens * heads, of_pages, size, SIZE, half)
    of_queries = rows, max(blocks.queries, tokens * heads)

    def run(q, seen, pool, table):
        return tpu_part.attend_blocks(q, seen, (pool,), table, of_pages // blocks.pages, blocks)

    return run, [
        ((*of_queries, SIZE), half),
        (of_queries, jnp.int32),
        ((rows * of_pages, size, 1, 2 * SIZE), half),
        ((rows, of_pages), jnp.int32),
    ]


SYSTEMS = {"experts": experts, "ours": ours, "pages": pages, "splash": splash, "tokamax": tokamax}
