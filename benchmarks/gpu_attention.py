"""Attention on one GPU: our kernels beside cuDNN's, tokamax's and JAX's own for Hopper, in one run.

    python benchmarks/gpu_attention.py                       (on the GPU's machine)
    python benchmarks/gpu_attention.py --sweep causal        (our kernels with other block sizes too)

Query heads share key/value heads, inputs are bfloat16 and random. Forward and backward are timed by themselves, each
many times in a row, and the median of such runs counts. Useful flops are 4 (forward) and 10 (backward) per visible pair
of query and key, head and number of a head; their rate stands beside that of a plain product of 8,192² matrices in the
same run. The masks are causal, packed (samples of unequal lengths) and a trunk with branches, as training has them; of
the peers only causal ones are timed, since their public interfaces take no spans, and JAX's kernel has no causal
backward. tokamax is left out where it is not installed. Outputs and gradients of the causal mask must agree with
cuDNN's to 2% of their norm.

Left out: float32, several GPUs, other generations than the one at hand.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import importlib.metadata
import itertools
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from measuring import Options
from mirothinker_kernels.flash_attention import gpu, gpu_backward, gpu_forward  # pyright: ignore
from mirothinker_kernels.flash_attention.gpu_visits import Tile  # pyright: ignore
from mirothinker_kernels.flash_attention.mask import Mask  # pyright: ignore
from mirothinker_kernels.ring_attention.ring import Kernels, Ring, attention  # pyright: ignore
from results import device, finish, table

from mirothinker_jax.data.packing import Pair, Sample, pack_pairs, pack_rows

AGREE = 0.02
RUNS = 5
KINDS = ("causal", "packed", "branches")
SIDE = 8192  # of the product that the rates are compared with


class Work(NamedTuple):
    """Something to time: a function of device arrays, and the useful flops of a call."""

    name: tuple[str, ...]
    call: Callable
    arguments: tuple
    flops: float


def spans(kind: str, length: int) -> tuple[Any, Any, Any]:
    """int32 [1, length] each, by the packer that training uses."""
    sample = lambda tokens: Sample(np.zeros(tokens, np.int32), np.ones(tokens, bool))  # noqa: E731
    if kind == "causal":
        return pack_rows([sample(length)], length).spans
    if kind == "packed":
        cuts = [0, *(int(length * part) for part in (0.37, 0.62, 0.7, 0.73, 0.93)), length]
        return pack_rows([sample(end - start) for start, end in itertools.pairwise(cuts)], length).spans
    branch = length // 4
    prompt = np.zeros(length - 2 * branch - 1, np.int32)
    return pack_pairs([Pair(prompt, sample(branch), sample(branch))], length, pairs_per_row=1).spans


def visible_pairs(rows: tuple[Any, Any, Any]) -> int:
    lo, hi, own = (np.asarray(x, np.int64) for x in rows)
    return int((np.maximum(hi - lo, 0) + np.maximum(np.arange(own.shape[1]) + 1 - own, 0)).sum())


def seconds(compiled: Callable, arguments: tuple, least: float) -> float:
    """Of one call: the median of runs of calls, each of `least` seconds or more."""
    jax.block_until_ready(compiled(*arguments))
    begun = time.perf_counter()
    jax.block_until_ready(compiled(*arguments))
    calls = max(1, round(least / (time.perf_counter() - begun)))
    taken = []
    for _ in range(RUNS):
        begun = time.perf_counter()
        for _ in range(calls):
            result = compiled(*arguments)
        jax.block_until_ready(result)
        taken.append((time.perf_counter() - begun) / calls)
    return statistics.median(taken)


def products(side: int) -> Work:
    """What the matrix units do when nothing else is asked of them."""
    a, b = (jax.random.normal(jax.random.key(n), (side, side), jnp.bfloat16) for n in range(2))
    return Work(("product", "", f"{side}²"), jnp.matmul, (a, b), 2.0 * side**3)


def arrays(heads: int, kv_heads: int, length: int, size: int, dtype: Any) -> list[jax.Array]:
    """q, k, v and the gradient of the output, [1, T, heads, size]."""
    count = (heads, kv_heads, kv_heads, heads)
    keys = jax.random.split(jax.random.key(length), 4)
    return [jax.random.normal(key, (1, length, n, size), dtype) for key, n in zip(keys, count, strict=True)]


def ours(mask: Mask) -> Callable:
    """(q, k, v [1, T, heads, size]) → output, by our kernels; without the transposes, which a model's fusions do."""
    ring = Ring(Kernels(gpu.forward, gpu.backward))
    return lambda q, k, v: attention(q, k, v, mask, ring)[0]


def forward_and_backward(name: tuple[str, str, str], call: Callable, given: list, flops: float) -> list[Work]:
    *qkv, d_out = given
    pull = jax.jit(lambda *qkv: jax.vjp(call, *qkv)[1])(*qkv)
    return [
        Work((*name, "forward"), call, tuple(qkv), flops),
        Work((*name, "backward"), lambda pull, d_out: pull(d_out), (pull, d_out), 2.5 * flops),
    ]


def of_jax(given: list, flops: float, length: int) -> list[Work]:
    """JAX's kernel for Hopper, of float16, which it is written for, by the blocks that its own benchmark tries."""
    from jax.experimental.pallas.ops.gpu import attention_mgpu

    qkv = tuple(x.astype(jnp.float16) for x in given[:3])
    works = []
    for keys in (64, 128):
        config = attention_mgpu.TuningConfig(block_q=64, block_kv=keys, max_concurrent_steps=2, causal=True)
        call = partial(attention_mgpu.attention, config=config)
        works.append(Work((f"jax mosaic, {keys} keys", "causal", str(length), "forward"), call, qkv, flops))
    return works


def of_tokamax(given: list, flops: float, length: int) -> list[Work]:
    """openxla's kernels for Hopper and Blackwell, with the blocks that it chooses; none where it is not installed."""
    try:
        import tokamax  # pyright: ignore[reportMissingImports]
    except ImportError:
        print("tokamax: left out, not installed here")
        return []
    call = partial(tokamax.dot_product_attention, is_causal=True, implementation="mosaic_gpu")
    try:
        return forward_and_backward(("tokamax", "causal", str(length)), call, given, flops)
    except NotImplementedError as error:
        print(f"tokamax: left out, {error}")
        return []


def peers_and_ours(o: argparse.Namespace) -> list[Work]:
    works = []
    for length in (int(n) for n in o.lengths.split(",")):
        given = arrays(o.heads, o.kv_heads, length, o.size, jnp.bfloat16)
        by_heads = [x.swapaxes(1, 2) for x in given]
        flops = lambda rows: 4.0 * o.heads * o.size * visible_pairs(rows)  # noqa: E731
        cudnn = partial(jax.nn.dot_product_attention, is_causal=True, implementation="cudnn")
        causal = flops(spans("causal", length))
        works += forward_and_backward(("cudnn", "causal", str(length)), cudnn, given, causal)
        works += of_jax(given, causal, length) + of_tokamax(given, causal, length)
        works += forward_and_backward(("ours", "causal", str(length)), ours(Mask("causal")), by_heads, causal)
        for kind in KINDS:
            rows = spans(kind, length)
            mask = Mask.of_spans(rows, jnp.arange(length, dtype=jnp.int32), aligned=True)
            name = ("ours, spans", kind, str(length))
            works += forward_and_backward(name, ours(mask), by_heads, flops(rows))
    return works


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


def other_tiles(o: argparse.Namespace) -> list[Work]:
    """Each of our kernels with blocks of other sizes, by spans, of the longest row."""
    length = max(int(n) for n in o.lengths.split(","))
    q, k, v, d_out = (x.swapaxes(1, 2) for x in arrays(o.heads, o.kv_heads, length, o.size, jnp.bfloat16))
    rows = spans(o.sweep, length)
    mask = Mask.of_spans(rows, jnp.arange(length, dtype=jnp.int32), aligned=True)
    out, lse = jax.jit(gpu.forward)(q, k, v, mask)
    delta = (out.astype(jnp.float32) * d_out.astype(jnp.float32)).sum(-1)
    each = o.heads * o.size * visible_pairs(rows)
    scale = o.size**-0.5
    saved = (q, k, v, mask, lse, delta, d_out)
    works = []
    for name, tiles, per_pair, given, call in (
        (
            "forward",
            FORWARD_TILES,
            4,
            (q, k, v, mask),
            lambda *a, tile: gpu_forward.forward(*a, tile, scale, None, False),
        ),
        ("dq", DQ_TILES, 6, saved, lambda *a, tile: gpu_backward.dq_by_queries(*a, None, tile, scale, False)),
        (
            "dk, dv",
            DK_DV_TILES,
            8,
            saved,
            lambda *a, tile: gpu_backward.dk_dv_by_keys(*a, tile, scale, False),
        ),
    ):
        for tile in tiles:
            label = f"{tile.queries} queries × {tile.keys} keys, {tile.warps} warps, {tile.stages} stages"
            works.append(Work((name, label), partial(call, tile=tile), given, per_pair * each))
    return works


def compiled(works: list[Work]) -> list[tuple[Work, Callable | None]]:
    """None where the compiler refuses, for want of shared memory, say."""

    def one(work: Work) -> Callable | None:
        try:
            return jax.jit(work.call).lower(*work.arguments).compile()
        except Exception as error:  # whatever a compiler raises
            print(f"{', '.join(work.name)}: {str(error).splitlines()[0][:150]}", flush=True)
            return None

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(zip(works, pool.map(one, works), strict=True))


def agree(o: argparse.Namespace) -> dict[str, float]:
    """Relative distance of our output and gradients from cuDNN's, causal, of the shortest row."""
    length = min(int(n) for n in o.lengths.split(","))
    *qkv, d_out = arrays(o.heads, o.kv_heads, length, o.size, jnp.bfloat16)
    mask = Mask.of_spans(spans("causal", length), jnp.arange(length, dtype=jnp.int32), aligned=True)
    by_heads = lambda *qkv: ours(mask)(*(x.swapaxes(1, 2) for x in qkv)).swapaxes(1, 2)  # noqa: E731
    cudnn = partial(jax.nn.dot_product_attention, is_causal=True, implementation="cudnn")

    @partial(jax.jit, static_argnums=0)
    def results(call, d_out, *qkv):
        out, pull = jax.vjp(call, *qkv)
        return [x.astype(jnp.float32) for x in (out, *pull(d_out))]

    apart = {}
    for name, got, expected in zip(
        ("output", "dq", "dk", "dv"), results(by_heads, d_out, *qkv), results(cudnn, d_out, *qkv), strict=True
    ):
        apart[name] = float(jnp.linalg.norm(got - expected) / jnp.linalg.norm(expected))
        if not apart[name] <= AGREE:
            raise SystemExit(
                f"{name} differs from cuDNN's by {apart[name]:.1%} of its norm; allowed {AGREE:.0%}"
            )
    return apart


def main() -> None:
    options = arguments()
    if options.sweep not in ("", *KINDS):
        raise SystemExit(f"--sweep {options.sweep}: one of {', '.join(KINDS)}")
    if jax.default_backend() != "gpu" or "cuda" not in jax.devices()[0].client.platform_version.lower():
        raise SystemExit("no CUDA GPU is visible to JAX: pip install -e '.[cuda]', on a machine with one")
    apart = agree(options)
    print("from cuDNN's:", ", ".join(f"{name} {share:.2%}" for name, share in apart.items()), flush=True)
    works = [products(SIDE), *peers_and_ours(options), *(other_tiles(options) if options.sweep else ())]
    found = []
    for work, call in compiled(works):
        if call is not None:
            taken = seconds(call, work.arguments, options.seconds)
            found.append((work, taken))
            print(f"{', '.join(work.name)}: {1e3 * taken:.3f} ms", flush=True)
    limit = found[0][0].flops / found[0][1]
    rows = [
        (", ".join(w.name), f"{1e3 * t:.2f}", f"{w.flops / t / 1e12:.0f}", f"{w.flops / t / limit:.0%}")
        for w, t in found
    ]
    print(table(("", "ms", "TFLOP/s", "of a product's"), rows))
    figures = {
        "of_a_products_rate": {", ".join(w.name): w.flops / t / limit for w, t in found},
        "milliseconds": {", ".join(w.name): 1e3 * t for w, t in found},
        "product_tflop_s": limit / 1e12,
        "from_cudnn": apart,
        "setting": vars(options),
        "device": {"gpu": jax.devices()[0].device_kind, **device()},
        "versions": {name: importlib.metadata.version(name) for name in ("jax", "jaxlib")},
    }
    finish("gpu_attention", figures)


def arguments() -> argparse.Namespace:
    options = Options(__doc__)
    options.add("heads", 32, "query heads")
    options.add("kv-heads", 8, "key/value heads")
    options.add("size", 128, "numbers of a head")
    options.add("lengths", "8192,32768", "tokens of a row, with commas")
    options.add("seconds", 0.1, "that a timed run takes at least")
    options.add(
        "sweep", "", f"one of {', '.join(KINDS)}: also our kernels with other block sizes, of this mask"
    )
    return options.parse_args()


if __name__ == "__main__":
    main()
