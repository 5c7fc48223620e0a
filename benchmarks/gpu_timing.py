"""What the benchmarks of attention on a GPU share: rows of masks, and works that are compiled together and timed."""

from __future__ import annotations

import concurrent.futures
import importlib.metadata
import itertools
import os
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from measuring import Options
from mirothinker_kernels.flash_attention.mask import Mask  # pyright: ignore[reportMissingImports]
from results import device, table

from mirothinker_jax.data.packing import Pair, Sample, pack_pairs, pack_rows

KINDS = ("causal", "packed", "branches")
RUNS = 5
SIDE = 8192  # of the product that the rates are compared with
WHOLE = 256  # tokens: rows are to be whole blocks, whose padding the kernels' own functions leave to others


class Work(NamedTuple):
    """Something to time: a function of device arrays, and the useful flops of a call."""

    name: tuple[str, ...]
    call: Callable
    arguments: tuple
    flops: float


def rows_of(kind: str, length: int) -> tuple[Any, Any, Any]:
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


def mask_of(rows: tuple[Any, Any, Any]) -> Mask:
    return Mask.of_spans(rows, jnp.arange(rows[0].shape[1], dtype=jnp.int32), aligned=True)


def random_arrays(heads: int, kv_heads: int, length: int, size: int, dtype: Any) -> list[jax.Array]:
    """q, k, v and the gradient of the output, [1, T, heads, size]."""
    count = (heads, kv_heads, kv_heads, heads)
    keys = jax.random.split(jax.random.key(length), 4)
    return [jax.random.normal(key, (1, length, n, size), dtype) for key, n in zip(keys, count, strict=True)]


def products(side: int) -> Work:
    """What the matrix units do when nothing else is asked of them."""
    a, b = (jax.random.normal(jax.random.key(n), (side, side), jnp.bfloat16) for n in range(2))
    return Work((f"product of {side}² matrices",), jnp.matmul, (a, b), 2.0 * side**3)


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


def timed(works: list[Work], least: float) -> dict[str, Any]:
    """Of those that compile, and of a product: seconds, and their rates as shares of the product's; prints them."""
    found = []
    for work, call in compiled([products(SIDE), *works]):
        if call is not None:
            taken = seconds(call, work.arguments, least)
            found.append((", ".join(work.name), taken, work.flops / taken))
            print(f"{found[-1][0]}: {1e3 * taken:.3f} ms", flush=True)
    limit = found[0][2]
    rows = [(name, f"{1e3 * t:.2f}", f"{rate / 1e12:.0f}", f"{rate / limit:.0%}") for name, t, rate in found]
    print(table(("", "ms", "TFLOP/s", "of a product's"), rows))
    return {
        "of_a_products_rate": {name: rate / limit for name, _, rate in found},
        "milliseconds": {name: 1e3 * t for name, t, _ in found},
        "product_tflop_s": limit / 1e12,
        "device": {"gpu": jax.devices()[0].device_kind, **device()},
        "versions": versions("jax", "jaxlib", "nvidia-cudnn-cu13", "tokamax"),
    }


def versions(*names: str) -> dict[str, str]:
    """Of those that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def need_cuda() -> None:
    if jax.default_backend() != "gpu" or "cuda" not in jax.devices()[0].client.platform_version.lower():
        raise SystemExit("no CUDA GPU is visible to JAX: pip install -e '.[cuda]', on a machine with one")


def check_length(length: int) -> int:
    if length < WHOLE or length % WHOLE:
        raise SystemExit(f"{length} tokens: give a multiple of {WHOLE}")
    return length


def options(description: str | None) -> Options:
    """With those that every such benchmark has."""
    made = Options(description)
    made.add("heads", 32, "query heads")
    made.add("kv-heads", 8, "key/value heads")
    made.add("size", 128, "numbers of a head")
    made.add("seconds", 0.1, "that a timed run takes at least")
    return made
