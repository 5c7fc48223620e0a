"""Log-probs and entropies of the trained positions, without ever holding logits of the whole row.

Positions that are not wanted never meet the head: the wanted ones are moved to the front, and a loop whose
trip count is theirs takes a chunk at a time. The gradient is exact and recomputes a chunk's logits (the
same loop again). In an agent's trajectory most tokens come from tools, so this saves most of the head.

On a mesh each device takes its own rows and context slice, with the head's weight gathered over the
batch axes and its vocabulary split over `tensor`; forward and backward are two explicit shard_maps, since
differentiating through a loop of unknown length is not possible.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from mirothinker_jax.parallel.mesh import BATCH_AXES
from mirothinker_jax.parallel.sharding import spec

CHUNK_BYTES = 1 << 26  # of float32 logits alive at a time, or more where the vocabulary is large: see _chunk
ROW_AXES = (*BATCH_AXES, "context")


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


def _forward(hidden, weight, targets, wanted):
    rows = spec("batch", "length")
    run = _on_mesh(
        _forward_shard,
        (spec("batch", "length", None), spec("vocab", None), rows, rows),
        (rows, rows, rows),
    )
    logprobs, entropies, lse = run(hidden, weight, targets, wanted)
    return (logprobs, entropies), (hidden, weight, targets, wanted, lse, entropies)


def _backward(saved, cotangents):
    hidden, weight, targets, wanted, lse, entropies = saved
    rows, wide, table = spec("batch", "length"), spec("batch", "length", None), spec("vocab", None)
    run = _on_mesh(_backward_shard, (wide, table, *(rows,) * 6), (wide, table))
    d_hidden, d_weight = run(hidden, weight, targets, wanted, lse, entropies, *cotangents)
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


def _chunk(positions: int, vocab: int, hidden: int) -> int:
    """Positions of a chunk. Never fewer than a quarter of the hidden size: the logits then take a quarter of what the
    weight's float32 gradient takes, to which each chunk adds; in smaller chunks that costs more than the products."""
    return min(positions, max(16, CHUNK_BYTES // 4 // vocab, hidden // 4))


def _compact(wanted: jax.Array, chunk: int) -> tuple[jax.Array, jax.Array]:
    """Indices of the flat positions, wanted ones first, padded to whole chunks by N (out of range: writes
    there are dropped), and the number of chunks that hold a wanted one."""
    count = wanted.size
    order = jnp.argsort(~wanted, stable=True).astype(jnp.int32)
    order = jnp.where(jnp.arange(count, dtype=jnp.int32) < wanted.sum(dtype=jnp.int32), order, count)
    padding = jnp.full(math.ceil(count / chunk) * chunk - count, count, jnp.int32)
    return jnp.concatenate([order, padding]), (wanted.sum(dtype=jnp.int32) + chunk - 1) // chunk


def _logits(flat, weight, targets, index, sharded):
    """Logits float32 [C, V_local] of one chunk, and the one-hot of its targets within the local vocabulary."""
    rows = flat.at[index].get(mode="fill", fill_value=0)
    logits = jnp.einsum("cd,vd->cv", rows, weight, preferred_element_type=jnp.float32)
    first = jax.lax.axis_index("tensor") * weight.shape[0] if sharded else 0
    local = targets.at[index].get(mode="fill", fill_value=0) - first
    hit = local[:, None] == jnp.arange(weight.shape[0], dtype=jnp.int32)[None]
    return rows, logits, hit


def _forward_shard(hidden, weight, targets, wanted, *, sharded):
    shape = targets.shape
    flat, targets = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1)
    weight = weight.astype(hidden.dtype)
    chunk = _chunk(targets.size, *weight.shape)
    order, chunks = _compact(wanted.reshape(-1), chunk)
    total = (lambda x: jax.lax.psum(x, "tensor")) if sharded else (lambda x: x)

    def body(i, carry):
        index = jax.lax.dynamic_slice_in_dim(order, i * chunk, chunk)
        _, logits, hit = _logits(flat, weight, targets, index, sharded)
        top = logits.max(-1)
        top = jax.lax.pmax(top, "tensor") if sharded else top
        shifted = logits - top[:, None]
        exps = jnp.exp(shifted)
        norm = total(exps.sum(-1))
        log_norm = jnp.log(norm)
        logprob = total(jnp.where(hit, shifted, 0.0).sum(-1)) - log_norm
        entropy = log_norm - total((exps * shifted).sum(-1)) / norm
        values = (logprob, entropy, top + log_norm)
        return tuple(c.at[index].set(v, mode="drop") for c, v in zip(carry, values, strict=True))

    start = tuple(jnp.zeros(targets.size, jnp.float32) for _ in range(3))
    return tuple(x.reshape(shape) for x in jax.lax.fori_loop(0, chunks, body, start))


def _backward_shard(hidden, weight, targets, wanted, lse, entropies, d_logprobs, d_entropies, *, sharded):
    dtype, flat = weight.dtype, hidden.reshape(-1, hidden.shape[-1])
    targets, lse, entropies = targets.reshape(-1), lse.reshape(-1), entropies.reshape(-1)
    d_logprobs, d_entropies = d_logprobs.reshape(-1), d_entropies.reshape(-1)
    weight = weight.astype(hidden.dtype)
    chunk = _chunk(targets.size, *weight.shape)
    order, chunks = _compact(wanted.reshape(-1), chunk)

    def body(i, carry):
        d_flat, d_weight = carry
        index = jax.lax.dynamic_slice_in_dim(order, i * chunk, chunk)
        rows, logits, hit = _logits(flat, weight, targets, index, sharded)
        take = lambda x: x.at[index].get(mode="fill", fill_value=0)[:, None]  # noqa: E731
        logs = logits - take(lse)
        probs = jnp.exp(logs)
        # d logprob/dz = onehot − p;  d entropy/dz = −p · (log p + entropy)
        grads = take(d_logprobs) * (hit.astype(jnp.float32) - probs)
        grads = (grads - take(d_entropies) * probs * (logs + take(entropies))).astype(rows.dtype)
        d_rows = jnp.einsum("cv,vd->cd", grads, weight, preferred_element_type=jnp.float32)
        d_flat = d_flat.at[index].set(d_rows.astype(d_flat.dtype), mode="drop")
        # [D, V], because XLA transposes the first operand on a CPU: a chunk's hidden states, not its logits.
        d_weight = d_weight + jnp.einsum("cd,cv->dv", rows, grads, preferred_element_type=jnp.float32)
        return d_flat, d_weight

    start = (jnp.zeros_like(flat), jnp.zeros(weight.shape[::-1], jnp.float32))
    d_flat, d_weight = jax.lax.fori_loop(0, chunks, body, start)
    if sharded:
        d_flat = jax.lax.psum(d_flat, "tensor")
        d_weight = jax.lax.psum(d_weight, ROW_AXES)
    return d_flat.reshape(hidden.shape), d_weight.T.astype(dtype)


def full_logits(hidden: jax.Array, weight: jax.Array) -> jax.Array:
    """Float32 logits [..., V], for the sampler, which needs all of them for one position per sequence."""
    return jnp.einsum(
        "...d,vd->...v", hidden, weight.astype(hidden.dtype), preferred_element_type=jnp.float32
    )
