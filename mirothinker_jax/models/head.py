"""Log-probs and entropies of the trained positions, without ever holding their logits.

Positions that are not wanted never meet the head: the wanted ones are moved to the front. Two nested loops then take
a part of the vocabulary and, for it, a chunk of positions at a time: the softmax is put together from the parts (as in
arXiv 1805.02867), and the exact gradient makes a part's logits again, and each part of the weight's gradient once. In
an agent's trajectory most tokens come from tools, so leaving those out saves most of the head.

On a mesh each device takes its own rows and context slice, and the vocabulary is split over `tensor`. A part of the
weight is gathered when it is needed, and its gradient scattered when it is made, so that no device ever holds all of
either. Forward and backward are two explicit shard_maps, since differentiating through a loop of unknown length is not
possible.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mirothinker_jax.parallel.sharding import COPY_AXES, SPLIT_AXES, spec

# Of a chunk and of a part: so many float32 logits are alive at a time, 16 MiB. With fewer positions a v5p waits for the
# gradient of the weight that each chunk adds to (by its compiler's cycles 512 reach 0.56 of the peak, 1,024 0.79, 2,048
# with as many tokens 0.81); with more, more are computed that are not wanted, half a chunk on average.
POSITIONS, TOKENS = 1024, 4096
NEVER = -1e30  # finite: −inf − −inf, and 0 · −inf, would be NaN


@jax.custom_vjp
def logprobs_and_entropy(
    hidden: jax.Array, weight: jax.Array, targets: jax.Array, wanted: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """log softmax(hidden · weightᵀ)[target] and the softmax's entropy, where wanted; zero elsewhere.

    Args:
      hidden: [B, T, D]; weight: [V, D] (cast to hidden's dtype for the products, which accumulate in fp32).
      targets: int32 [B, T], below V.
      wanted: bool [B, T].

    Returns:
      float32 [B, T] log-probs (nats) and float32 [B, T] entropies (nats).
    """
    return _forward(hidden, weight, targets, wanted)[0]


def _forward(hidden, weight, targets, wanted) -> tuple[Any, ...]:
    rows = spec("batch", "length")
    run = _on_mesh(
        _forward_shard,
        (spec("batch", "length", None), spec("vocab", "embed"), rows, rows),
        (rows,) * 4,
    )
    logprobs, *rest = run(hidden, weight, targets, wanted)
    return (logprobs, rest[0]), (hidden, weight, targets, wanted, *rest)


def _backward(saved, cotangents) -> tuple[Any, ...]:
    hidden, weight, *rest = saved
    rows, wide, table = spec("batch", "length"), spec("batch", "length", None), spec("vocab", "embed")
    run = _on_mesh(_backward_shard, (wide, table, *(rows,) * 7), (wide, table))
    d_hidden, d_weight = run(hidden, weight, *rest, *cotangents)
    return d_hidden, d_weight, None, None


logprobs_and_entropy.defvjp(_forward, _backward)


def _on_mesh(local: Callable, in_specs: tuple, out_specs: tuple) -> Callable:
    """`local(…, tensor)` under shard_map where there is a mesh; `tensor` says if the vocabulary is split."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return functools.partial(local, sharded=False)
    # Replication is made explicit below by psum, and the loops' trip counts differ between devices on
    # purpose: nothing for the replication checker to track.
    run = functools.partial(local, sharded=True)
    return jax.shard_map(run, in_specs=in_specs, out_specs=out_specs, check_vma=False)


class _Wanted(NamedTuple):
    """The wanted positions of a device, in front and padded to whole chunks.

    index: int32 [P], where each lies in the flat rows; out of range for padding. place: int32 [B · T], where each of
    the flat rows is among them; out of range for those that are not wanted.
    rows: [P, D], their hidden states. targets: int32 [P], within the local vocabulary where they are in it.
    chunk: positions of a chunk. chunks: int32 scalar, the chunks that hold a wanted one.
    """

    index: jax.Array
    place: jax.Array
    rows: jax.Array
    targets: jax.Array
    chunk: int
    chunks: jax.Array

    def put_back(self, values: jax.Array) -> jax.Array:
        """[P, …] → [B · T, …], zeros where not wanted."""
        return values.at[self.place].get(mode="fill", fill_value=0)


def _gather(hidden, weight, targets, wanted, sharded) -> _Wanted:
    count = wanted.size
    chunk = min(POSITIONS, count)
    padded = -(-count // chunk) * chunk
    # Counted, not sorted, and put back by looking up: a TPU's compiler takes seconds for each sort and scatter of rows.
    counted = jnp.cumsum(wanted.reshape(-1), dtype=jnp.int32)
    every = jnp.arange(count, dtype=jnp.int32)
    place = jnp.where(wanted.reshape(-1), counted - 1, padded + every)
    index = jnp.full(padded, count, jnp.int32).at[place].set(every, mode="drop", unique_indices=True)
    rows = hidden.reshape(count, -1).at[index].get(mode="fill", fill_value=0)
    first = jax.lax.axis_index("tensor") * weight.shape[0] if sharded else 0
    local = targets.reshape(-1).at[index].get(mode="fill", fill_value=0) - first
    return _Wanted(index, place, rows, local, chunk, (counted[-1] + chunk - 1) // chunk)


def _over_parts(weight: jax.Array, dtype: Any, sharded: bool, body: Callable, carry: Any) -> Any:
    """`body(piece, first token, token ids [S], which of them are new [S], carry)` for each part of the vocabulary.

    piece: [S, D] of the weight, whole, gathered while the part before is worked on. The last part begins earlier where
    the size does not divide; what it shares with the one before is not new.
    """
    vocab = weight.shape[0]
    size = min(TOKENS, vocab)
    begin = lambda j: jnp.minimum(j * size, vocab - size)  # noqa: E731
    fetch = lambda j: _piece(weight, begin(j), size, dtype, sharded)  # noqa: E731

    def part(j, state) -> tuple[Any, ...]:
        piece, carry = state
        following = fetch(j + 1)
        ids = begin(j) + jnp.arange(size, dtype=jnp.int32)
        return following, body(piece, begin(j), ids, ids >= j * size, carry)

    return jax.lax.fori_loop(0, math.ceil(vocab / size), part, (fetch(0), carry))[1]


def _slice(x: jax.Array, first: Any, size: int) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(x, first, size)


def _piece(weight: jax.Array, first: Any, size: int, dtype: Any, sharded: bool) -> jax.Array:
    """[S, D], rows of the weight, whole."""
    part = _slice(weight, first, size).astype(dtype)
    return jax.lax.all_gather(part, SPLIT_AXES, axis=1, tiled=True) if sharded else part


def _update(x: jax.Array, part: jax.Array, first: Any) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(x, part, first, 0)


def _logits(rows, piece, new) -> jax.Array:
    """Float32 logits [C, S] of a chunk for a part; NEVER where they belong to the part before."""
    logits = jnp.einsum("cd,vd->cv", rows, piece, preferred_element_type=jnp.float32)
    return jnp.where(new[None], logits, NEVER)


def _forward_shard(hidden, weight, targets, wanted, *, sharded) -> Any:
    w = _gather(hidden, weight, targets, wanted, sharded)

    def part(piece, first, ids, new, carry) -> Any:
        def chunk(i, carry) -> Any:
            at = i * w.chunk
            top, norm, mean, logit = (_slice(x, at, w.chunk) for x in carry)
            logits = _logits(_slice(w.rows, at, w.chunk), piece, new)
            hit = (_slice(w.targets, at, w.chunk)[:, None] == ids[None]) & new[None]
            higher = jnp.maximum(top, logits.max(-1))
            shifted = logits - higher[:, None]
            exps = jnp.exp(shifted)
            faded = jnp.exp(top - higher)
            mean = faded * (mean + (top - higher) * norm) + (exps * shifted).sum(-1)
            norm = faded * norm + exps.sum(-1)
            logit = logit + jnp.where(hit, logits, 0.0).sum(-1)
            return tuple(_update(x, y, at) for x, y in zip(carry, (higher, norm, mean, logit), strict=True))

        return jax.lax.fori_loop(0, w.chunks, chunk, carry)

    # Of each position: the largest logit, Σ exp(z − largest), Σ exp(z − largest) · (z − largest), the target's logit.
    zeros = jnp.zeros(w.index.size, jnp.float32)
    top, norm, mean, logit = _over_parts(
        weight, hidden.dtype, sharded, part, (zeros + NEVER, zeros, zeros, zeros)
    )
    if sharded:
        highest = jax.lax.pmax(top, "tensor")
        faded = jnp.exp(top - highest)
        mean = jax.lax.psum(faded * (mean + (top - highest) * norm), "tensor")
        norm, logit = jax.lax.psum(faded * norm, "tensor"), jax.lax.psum(logit, "tensor")
        top = highest
    # Largest logit and log-norm apart: their sum would round the difference of two large numbers.
    log_norm = jnp.log(norm)
    values = (logit - top - log_norm, log_norm - mean / norm, top, log_norm)
    return tuple(w.put_back(v).reshape(targets.shape) for v in values)


def _backward_shard(hidden, weight, targets, wanted, *of_positions, sharded) -> tuple[Any, ...]:
    w = _gather(hidden, weight, targets, wanted, sharded)
    entropies, top, log_norm, d_logprobs, d_entropies = (
        x.reshape(-1).at[w.index].get(mode="fill", fill_value=0) for x in of_positions
    )

    def part(piece, first, ids, new, carry) -> tuple[Any, ...]:
        def chunk(i, carry) -> tuple[Any, ...]:
            d_rows, d_piece = carry
            at = i * w.chunk
            take = lambda x: _slice(x, at, w.chunk)[:, None]  # noqa: E731
            rows = _slice(w.rows, at, w.chunk)
            logs = _logits(rows, piece, new) - take(top) - take(log_norm)
            probs = jnp.exp(logs)
            hit = (take(w.targets) == ids[None]) & new[None]
            # d logprob/dz = onehot − p;  d entropy/dz = −p · (log p + entropy)
            grads = take(d_logprobs) * (hit.astype(jnp.float32) - probs)
            grads = (grads - take(d_entropies) * probs * (logs + take(entropies))).astype(rows.dtype)
            back = jnp.einsum("cv,vd->cd", grads, piece, preferred_element_type=jnp.float32)
            d_rows = _update(d_rows, _slice(d_rows, at, w.chunk) + back, at)
            # [D, S], because XLA transposes the first operand on a CPU: a chunk's hidden states, not its logits.
            return d_rows, d_piece + jnp.einsum("cd,cv->dv", rows, grads, preferred_element_type=jnp.float32)

        d_rows, d_weight = carry
        zeros = jnp.zeros((hidden.shape[-1], ids.size), jnp.float32)
        d_rows, d_piece = jax.lax.fori_loop(0, w.chunks, chunk, (d_rows, zeros))
        if sharded:
            d_piece = jax.lax.psum_scatter(d_piece, SPLIT_AXES, scatter_dimension=0, tiled=True)
            d_piece = jax.lax.psum(d_piece, COPY_AXES)
        d_piece = jnp.where(new[:, None], d_piece.T, _slice(d_weight, first, ids.size))
        return d_rows, _update(d_weight, d_piece, first)

    start = (jnp.zeros(w.rows.shape, jnp.float32), jnp.zeros(weight.shape, jnp.float32))
    d_rows, d_weight = _over_parts(weight, hidden.dtype, sharded, part, start)
    if sharded:
        d_rows = jax.lax.psum(d_rows, "tensor")
    d_hidden = w.put_back(d_rows.astype(hidden.dtype)).reshape(hidden.shape)
    return d_hidden, d_weight.astype(weight.dtype)


def full_logits(hidden: jax.Array, weight: jax.Array) -> jax.Array:
    """Float32 logits [..., V], for the sampler, which needs all of them for one position per sequence."""
    return jnp.einsum(
        "...d,vd->...v", hidden, weight.astype(hidden.dtype), preferred_element_type=jnp.float32
    )
