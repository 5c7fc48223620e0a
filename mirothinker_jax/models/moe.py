"""Mixture of experts as Qwen3-MoE has it: softmax over all experts, the best k, their weights scaled to 1.

Dropless: every token reaches every expert it chose, whatever the load (parallel/experts.py). The router computes in
float32. Routes may be given instead of chosen, so that training follows the routes of the rollout that it learns from
(routing replay: arXiv 2507.18071, §5.3; from the sampler's routes: arXiv 2510.11370). The weights then are the router's
own for those experts.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from mirothinker_jax.config import ModelConfig
from mirothinker_jax.models.layers import Adapter, parameter
from mirothinker_jax.parallel.experts import named, routed
from mirothinker_jax.parallel.sharding import constrain


class Routing(NamedTuple):
    """What a layer's router did, or all layers' (with a leading L).

    chosen: int32 [B, T, k]. load: float32 [X], how often each expert was chosen by a token that counts.
    probability: float32 [X], its probability summed over those tokens.
    """

    chosen: jax.Array
    load: jax.Array
    probability: jax.Array


class Experts(nnx.Module):
    """One of the experts' three projections: kernels [L, X, in, out]."""

    def __init__(self, rngs: nnx.Rngs, config: ModelConfig, name: str, inputs: str, outputs: str):
        c, moe = config, config.moe
        sizes = {"embed": c.hidden, "ffn": moe.expert_ffn}
        shape = (c.layers, moe.experts, sizes[inputs], sizes[outputs])
        scale = 0.02 * (2 * c.layers) ** -0.5 if name == "down" else sizes[inputs] ** -0.5
        self.kernel = parameter(rngs, shape, ("layers", "experts", inputs, outputs), c.param_dtype, scale)
        self.gathered = ("experts", *(None if a == "embed" else a for a in (inputs, outputs)))
        stacked = {"layers": c.layers, "experts": moe.experts}
        narrow, wide = {inputs: sizes[inputs]}, {outputs: sizes[outputs]}
        self.adapter = Adapter.maybe(rngs, c, name, stacked, narrow, wide)

    def __call__(self, dtype) -> jax.Array:
        """The layer's kernels [X, in, out], gathered over fsdp, with the adapter's product added."""
        kernel = self.kernel[...]
        if self.adapter is not None:
            kernel = kernel + self.adapter.product("xir,xro->xio").astype(kernel.dtype)
        return constrain(kernel.astype(dtype), *self.gathered)


class Router(nnx.Module):
    """Which experts a token is sent to, and with which weights."""

    def __init__(self, rngs: nnx.Rngs, config: ModelConfig):
        c = config
        shape = (c.layers, c.hidden, c.moe.experts)
        self.kernel = parameter(rngs, shape, ("layers", "embed", None), c.param_dtype, c.hidden**-0.5)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Probabilities float32 [B, T, X]."""
        kernel = constrain(self.kernel[...].astype(x.dtype), None, None)
        logits = jnp.einsum("btd,dx->btx", x, kernel, preferred_element_type=jnp.float32)
        return jax.nn.softmax(logits, axis=-1)


class MoE(nnx.Module):
    """A feed-forward layer of experts, of which each token sees a few."""

    def __init__(self, rngs: nnx.Rngs, config: ModelConfig):
        self.config = config.moe
        self.router = Router(rngs, config)
        self.gate = Experts(rngs, config, "gate", "embed", "ffn")
        self.up = Experts(rngs, config, "up", "embed", "ffn")
        self.down = Experts(rngs, config, "down", "ffn", "embed")

    def __call__(
        self, x: jax.Array, counts: jax.Array | None, routes: jax.Array | None
    ) -> tuple[jax.Array, Routing]:
        """x [B, T, D] → ([B, T, D], what the router did).

        Args:
          counts: bool [B, T], the tokens that the router's statistics are of; None: all.
          routes: int [B, T, k], experts to use instead of the router's best; None, or −1: those.
        """
        c = self.config
        probabilities = constrain(self.router(x), "batch", "length", None)
        best: jax.Array = named(jax.lax.top_k(probabilities, c.experts_per_token)[1])
        routes = best if routes is None else jnp.where(routes < 0, best, routes)
        # Not a gather, whose gradient is a scatter: a TPU's compiler begins that with a sort, and takes long over it.
        hits = jax.nn.one_hot(routes, c.experts, dtype=jnp.float32)
        weights = (hits * probabilities[..., None, :]).sum(-1)
        if c.norm_topk:
            weights = weights / weights.sum(-1, keepdims=True)
        out = routed(x, routes, weights, self.gate(x.dtype), self.up(x.dtype), self.down(x.dtype))
        seen = jnp.ones(x.shape[:2], jnp.float32) if counts is None else counts.astype(jnp.float32)
        load = jnp.einsum("btkx,bt->x", hits, seen)
        return out, Routing(routes, load, jnp.einsum("btx,bt->x", probabilities, seen))


def balance_loss(routing: Routing) -> jax.Array:
    """X · Σ_x (share of tokens that chose x) · (mean probability of x), averaged over layers.

    The loss of Switch Transformer (arXiv 2101.03961, eq. 4) for k choices, as transformers scales it: k where the
    load is even. The shares are over the tokens of a micro-batch on all devices (the global-batch form of
    arXiv 2501.11873); no gradient goes through them.
    """
    experts = routing.load.shape[-1]
    k = routing.chosen.shape[-1]
    tokens = jnp.maximum(routing.load.sum(-1, keepdims=True) / k, 1.0)
    share = jax.lax.stop_gradient(routing.load / tokens)
    return (experts * share * routing.probability / tokens).sum(-1).mean()


def busiest(routing: Routing) -> jax.Array:
    """The busiest expert's load over the mean load, averaged over layers: 1 where the load is even."""
    mean = jnp.maximum(routing.load.mean(-1), 1e-9)
    return (routing.load.max(-1) / mean).mean()
