"""Attention on one GPU: our kernels beside cuDNN's, tokamax's and JAX's own for Hopper, in one run.

    python benchmarks/gpu_attention.py        (on the GPU's machine)

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
from collections.abc import Callable
from functools import partial

import gpu_timing as timing
import jax
import jax.numpy as jnp
from gpu_timing import Work
from mirothinker_kernels.flash_attention import gpu  # pyright: ignore[reportMissingImports]
from mirothinker_kernels.flash_attention.mask import Mask  # pyright: ignore[reportMissingImports]
from mirothinker_kernels.ring_attention.ring import (  # pyright: ignore[reportMissingImports]
    Kernels,
    Ring,
    attention,
)
from results import finish

AGREE = 0.02
CUDNN = partial(jax.nn.dot_product_attention, is_causal=True, implementation="cudnn")


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
        works.append(Work((f"jax, float16, {keys} keys", "causal", str(length), "forward"), call, qkv, flops))
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
    except Exception as error:  # whatever it raises where it does not support the GPU
        print(f"tokamax: left out, {str(error).splitlines()[0][:150]}")
        return []


def works(o: argparse.Namespace, length: int) -> list[Work]:
    given = timing.random_arrays(o.heads, o.kv_heads, length, o.size, jnp.bfloat16)
    by_heads = [x.swapaxes(1, 2) for x in given]
    flops = lambda rows: 4.0 * o.heads * o.size * timing.visible_pairs(rows)  # noqa: E731
    causal = flops(timing.rows_of("causal", length))
    made = forward_and_backward(("cudnn", "causal", str(length)), CUDNN, given, causal)
    made += of_jax(given, causal, length) + of_tokamax(given, causal, length)
    made += forward_and_backward(("ours", "causal", str(length)), ours(Mask("causal")), by_heads, causal)
    for kind in timing.KINDS:
        rows = timing.rows_of(kind, length)
        name = ("ours, spans", kind, str(length))
        made += forward_and_backward(name, ours(timing.mask_of(rows)), by_heads, flops(rows))
    return made


def agree(o: argparse.Namespace, length: int) -> dict[str, float]:
    """Relative distance of our output and gradients from cuDNN's, causal."""
    *qkv, d_out = timing.random_arrays(o.heads, o.kv_heads, length, o.size, jnp.bfloat16)
    mask = timing.mask_of(timing.rows_of("causal", length))
    by_heads = lambda *qkv: ours(mask)(*(x.swapaxes(1, 2) for x in qkv)).swapaxes(1, 2)  # noqa: E731

    @partial(jax.jit, static_argnums=0)
    def results(call, d_out, *qkv):
        out, pull = jax.vjp(call, *qkv)
        return [x.astype(jnp.float32) for x in (out, *pull(d_out))]

    apart = {}
    for name, got, expected in zip(
        ("output", "dq", "dk", "dv"), results(by_heads, d_out, *qkv), results(CUDNN, d_out, *qkv), strict=True
    ):
        apart[name] = float(jnp.linalg.norm(got - expected) / jnp.linalg.norm(expected))
        if not apart[name] <= AGREE:
            raise SystemExit(
                f"{name} differs from cuDNN's by {apart[name]:.1%} of its norm; allowed {AGREE:.0%}"
            )
    return apart


def main() -> None:
    options = arguments()
    lengths = [timing.check_length(int(n)) for n in options.lengths.split(",")]
    timing.need_cuda()
    apart = agree(options, min(lengths))
    print("from cuDNN's:", ", ".join(f"{name} {share:.2%}" for name, share in apart.items()), flush=True)
    figures = timing.timed([work for length in lengths for work in works(options, length)], options.seconds)
    finish("gpu_attention", figures | {"from_cudnn": apart, "setting": vars(options)})


def arguments() -> argparse.Namespace:
    options = timing.options(__doc__)
    options.add("lengths", "8192,32768", "tokens of a row, with commas")
    return options.parse_args()


if __name__ == "__main__":
    main()
