"""What attention is tested on and against: rows of every kind of mask, and dense attention in float32.

The kinds are the rows of one batch, so that a compilation serves them all. In float32 a row may differ by 1e-5 of its
largest value (plain XLA on one device: by 2e-6, its gradients by 4e-6). In bfloat16 it may differ twice as much as
dense attention does that rounds its probabilities and their gradients to bfloat16.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import tiny
from mirothinker_kernels.flash_attention import gpu, gpu_visits
from mirothinker_kernels.flash_attention.reference import visible
from mirothinker_kernels.ring_attention.ring import Kernels, Ring, attention

from mirothinker_jax.data.packing import Branch, Tree, pack_pairs, pack_rows

LENGTH = 203  # neither a whole block, nor a strip, nor a tile, nor a chunk
KV_HEADS = 2
ROWS = ("causal", "packed, with a tree", "trunk and branches", "mostly padding", "rows that see nothing")


def kernels_of(module, **options):
    return Kernels(*(functools.partial(f, **options) for f in (module.forward, module.backward)))


def gpu_kernels(queries, keys):
    """With blocks of so many queries and keys; of the kernel that goes by keys, the other way round."""
    first, second = (gpu_visits.Tile(*n, warps=4, stages=2) for n in ((queries, keys), (keys, queries)))
    return kernels_of(gpu, largest=gpu.Tiles(first, first, second), interpret=jax.default_backend() == "cpu")


def spans(length=LENGTH):
    """int32 [5, length] of the kinds in ROWS, by the packer that training uses; the last is made by hand."""
    long = max(1, length // LENGTH)
    pairs = [tuple(long * n for n in pair) for pair in ((70, 20, 11), (40, 9, 30))]
    trunk, *branches = tiny.samples(4, [length // 7, length // 9, length // 11])
    tree = Tree(trunk, tuple(Branch(length // n, b) for n, b in zip((20, 8), branches, strict=True)))
    rows = [
        pack_rows(tiny.samples(0, [length]), length),
        pack_rows([*tiny.samples(1, [length // 2, length // 7]), tree], length),
        pack_pairs(tiny.pairs(2, pairs), length, pairs_per_row=2),
        pack_rows(tiny.samples(3, [7]), length),
        pack_rows(tiny.samples(0, [length]), length),
    ]
    made = [np.concatenate([getattr(r.spans, name) for r in rows]) for name in rows[0].spans._fields]
    made[2][4, 40:150] = length + 1  # own_lo beyond themselves
    return tuple(made)


def dense(q, k, v, mask, rounding):
    """`rounding` is applied to what bfloat16 implementations round: probabilities and gradients of scores."""
    batch, length, heads, size = q.shape
    q, k, v = (x.astype(jnp.float32) for x in (q, k, v))
    grouped = q.reshape(batch, length, k.shape[2], -1, size)
    scores = rounding(jnp.einsum("btkge,bske->bkgts", grouped, k)) * size**-0.5
    index = jnp.arange(length, dtype=jnp.int32)
    seen = visible(*mask, index, index)[:, None, None]
    some = seen.any(-1, keepdims=True)
    scores = jnp.where(seen, scores, -1e30)
    lse = jax.nn.logsumexp(scores, axis=-1, keepdims=True)
    weights = rounding(jnp.where(seen, jnp.exp(scores - jnp.where(some, lse, 0.0)), 0.0))
    out = jnp.einsum("bkgts,bske->btkge", weights, v).reshape(batch, length, heads, size)
    lse = jnp.moveaxis(jnp.where(some, lse, 0.0)[..., 0], 3, 1).reshape(batch, length, heads)
    return out, lse


@jax.custom_vjp
def to_bfloat16(x):
    return x.astype(jnp.bfloat16).astype(jnp.float32)


to_bfloat16.defvjp(lambda x: (to_bfloat16(x), None), lambda _, g: (to_bfloat16(g),))


def graded(run, arrays, weights):
    """Results of run(q, k, v) → (output, log-sum-exp), and the gradients of their weighted sum."""

    def loss(arrays):
        out, lse = run(*arrays)
        lse = jnp.where(lse > -1e29, lse, 0.0)
        return (out.astype(jnp.float32) * weights[0]).sum() + (lse * weights[1]).sum(), (out, lse)

    gradients, results = jax.grad(loss, has_aux=True)(arrays)
    return dict(zip(("output", "log-sum-exp", "dq", "dk", "dv"), (*results, *gradients), strict=True))


def on_one_device(kernels, mask):
    """(q [B, T, H, E], k, v) → (output, log-sum-exp [B, T, H]) by these kernels."""

    def run(*arrays):
        results = attention(*(x.swapaxes(1, 2) for x in arrays), mask, Ring(kernels))
        return tuple(x.swapaxes(1, 2) for x in results)

    return run


@functools.cache
def case(groups, size, dtype, length=LENGTH, with_lse=True):
    """Inputs, weights that make a scalar of the results, and what dense attention makes of them: exact, and rounded as
    bfloat16 rounds."""
    rng = np.random.default_rng(groups * size)
    shapes = [(len(ROWS), length, n, size) for n in (KV_HEADS * groups, KV_HEADS, KV_HEADS)]
    arrays = [jnp.asarray(rng.normal(size=s), dtype) for s in shapes]
    weights = [jnp.asarray(rng.normal(size=s), jnp.float32) for s in (shapes[0], shapes[0][:3])]
    if not with_lse:
        weights[1] = jnp.zeros_like(weights[1])
    of = lambda rounding: jax.jit(  # noqa: E731
        lambda arrays: graded(
            functools.partial(dense, mask=spans(length), rounding=rounding), arrays, weights
        )
    )(arrays)
    return arrays, weights, of(lambda x: x), of(to_bfloat16)


def assert_close(got, exact, rounded, dtype, of_values=1e-5, of_gradients=1e-5):
    for name, value in got.items():
        assert value.dtype == (jnp.float32 if name == "log-sum-exp" else dtype)
        value, expected, other = (np.asarray(x[name], np.float32) for x in (got, exact, rounded))
        if dtype == jnp.bfloat16 and name != "log-sum-exp":
            other = np.asarray(jnp.asarray(other, dtype), np.float32)
        for row, kind in enumerate(ROWS):
            apart = np.abs(value[row] - expected[row]).max()
            relative = of_gradients if name in ("dq", "dk", "dv") else of_values
            allowed = relative * np.abs(expected[row]).max()
            if dtype == jnp.bfloat16:
                allowed += 2 * np.abs(other[row] - expected[row]).max()
            assert apart <= allowed, f"{name} of {kind!r}: {apart:.3g} apart, allowed {allowed:.3g}"
