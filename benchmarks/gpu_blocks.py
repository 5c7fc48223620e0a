"""Each of our GPU kernels with blocks of many sizes, for kernels/flash_attention/gpu.py to choose from.

    python benchmarks/gpu_blocks.py --mask packed        (on the GPU's machine)

One row, by spans: one sample, several packed, or a trunk with branches. Useful flops are 4 (forward), 6 (dq) and 8 (dk
and dv) per visible pair of query and key, head and number of a head: all that a kernel has to multiply. What does not
compile, for want of shared memory, is said and left out.
"""

from __future__ import annotations

import argparse
from functools import partial

import gpu_timing as timing
import jax
import jax.numpy as jnp
from gpu_timing import Work
from mirothinker_kernels.flash_attention import (  # pyright: ignore[reportMissingImports]
    gpu,
    gpu_backward,
    gpu_forward,
)
from mirothinker_kernels.flash_attention.gpu_visits import Tile  # pyright: ignore[reportMissingImports]
from results import finish

FORWARD_TILES = [
    *[Tile(128, keys, warps, stages) for keys in (32, 64, 128) for warps in (4, 8) for stages in (2, 3, 4)],
    *[Tile(64, keys, 4, stages) for keys in (32, 64, 128) for stages in (2, 3)],
    *[Tile(256, 64, 8, stages) for stages in (2, 3)],
]
DQ_TILES = [
    *[Tile(128, keys, 8, stages) for keys in (32, 64, 128) for stages in (1, 2, 3)],
    *[Tile(64, keys, 4, stages) for keys in (32, 64, 128) for stages in (1, 2, 3)],
]
DK_DV_TILES = [
    *[Tile(queries, 128, 8, stages) for queries in (32, 64, 128) for stages in (1, 2, 3)],
    *[Tile(queries, 64, 4, stages) for queries in (32, 64, 128) for stages in (1, 2, 3)],
]


def works(o: argparse.Namespace) -> list[Work]:
    arrays = timing.random_arrays(o.heads, o.kv_heads, o.length, o.size, jnp.bfloat16)
    q, k, v, d_out = (x.swapaxes(1, 2) for x in arrays)
    rows = timing.rows_of(o.mask, o.length)
    mask, scale = timing.mask_of(rows), o.size**-0.5
    out, lse = jax.jit(gpu.forward)(q, k, v, mask)
    delta = (out.astype(jnp.float32) * d_out.astype(jnp.float32)).sum(-1)
    saved = (q, k, v, mask, lse, delta, d_out)
    forward = lambda *a, tile: gpu_forward.forward(*a, tile, scale, None, False)  # noqa: E731
    dq = lambda *a, tile: gpu_backward.dq_by_queries(*a, None, tile, scale, False)  # noqa: E731
    dk_dv = lambda *a, tile: gpu_backward.dk_dv_by_keys(*a, tile, scale, False)  # noqa: E731
    made = []
    for name, tiles, per_pair, given, call in (
        ("forward", FORWARD_TILES, 4, (q, k, v, mask), forward),
        ("dq", DQ_TILES, 6, saved, dq),
        ("dk and dv", DK_DV_TILES, 8, saved, dk_dv),
    ):
        for tile in tiles:
            label = f"{tile.queries} queries × {tile.keys} keys, {tile.warps} warps, {tile.stages} stages"
            flops = per_pair * o.heads * o.size * timing.visible_pairs(rows)
            made.append(Work((name, label), partial(call, tile=tile), given, flops))
    return made


def main() -> None:
    options = arguments()
    if options.mask not in timing.KINDS:
        raise SystemExit(f"--mask {options.mask}: one of {', '.join(timing.KINDS)}")
    timing.check_length(options.length)
    timing.need_cuda()
    finish(
        f"gpu_blocks-{options.mask}",
        timing.timed(works(options), options.seconds) | {"setting": vars(options)},
    )


def arguments() -> argparse.Namespace:
    options = timing.options(__doc__)
    options.add("mask", "causal", f"of the row, one of {', '.join(timing.KINDS)}")
    options.add("length", 32768, "tokens of the row")
    return options.parse_args()


if __name__ == "__main__":
    main()
