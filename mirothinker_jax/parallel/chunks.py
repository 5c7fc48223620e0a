"""A feed-forward block whose inner activations are never all there: a device takes a part of its tokens at a time.

Backward a block holds five arrays [tokens, ffn]. In chunks it holds those of one, but the weights and the sums of their
gradients in float32: less where a device has more than about 2.4 times as many tokens as the hidden size, and a chunk.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from mirothinker_jax.parallel.mesh import TOKEN_AXES
from mirothinker_jax.parallel.sharding import spec

Block = Callable[..., jax.Array]


def in_chunks(
    block: Block, tokens: int, x: jax.Array, gate: jax.Array, up: jax.Array, down: jax.Array
) -> jax.Array:
    """block(x, gate, up, down) on the mesh in force (or without one), `tokens` of a device's at a time.

    What a chunk makes is made again backward, but for the products that the rematerialisation policy `dots` keeps.

    Args:
      block: of [N, D] tokens, each by itself, with a device's own part of the weights.
      x: [B, T, D]; gate, up: [D, F]; down: [F, D]; all in x's dtype.
    """
    mesh = jax.sharding.get_abstract_mesh()
    local = functools.partial(_local, block, tokens)
    if mesh.empty or mesh.size == 1:
        return local(x, gate, up, down)
    rows, wide = spec("batch", "length", None), spec(None, "ffn")
    # In a shard_map, or each chunk's gradients of the weights would be summed over the devices by themselves.
    run = jax.shard_map(
        functools.partial(_shard, local), in_specs=(rows, wide, wide, spec("ffn", None)), out_specs=rows
    )
    return run(x, gate, up, down)


def _shard(local: Block, x: jax.Array, *weights: jax.Array) -> jax.Array:
    weights = tuple(jax.lax.pcast(w, TOKEN_AXES, to="varying") for w in weights)
    return jax.lax.psum(local(jax.lax.pcast(x, "tensor", to="varying"), *weights), "tensor")


def _local(block: Block, tokens: int, x: jax.Array, *weights: jax.Array) -> jax.Array:
    flat = x.reshape(-1, x.shape[-1])
    chunks = -(-len(flat) // tokens)
    flat = jnp.pad(flat, ((0, -len(flat) % chunks), (0, 0)))
    # A loop adds up a gradient in its operand's dtype.
    wide = [w.astype(jnp.float32) for w in weights]
    chunk = jax.checkpoint(lambda x: block(x, *(w.astype(x.dtype) for w in wide)))
    out = jax.lax.map(chunk, flat.reshape(chunks, -1, x.shape[-1]))
    return out.reshape(flat.shape)[: x.size // x.shape[-1]].reshape(x.shape)
