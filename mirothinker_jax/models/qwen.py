"""Qwen3, Qwen3-MoE and Qwen2.5 decoders in Flax NNX (arXiv 2505.09388, 2412.15115).

The module holds parameters and shapes only. Outside it, parameters travel as a plain nested dict (what
`nnx.to_pure_dict` gives), so that steps are ordinary jitted functions over pytrees: `Qwen.merge` makes
a module of them again at trace time.

Layers are scanned when training (one compiled block, whatever the depth), and unrolled when a cache is
passed, because a scan would copy the whole cache at every decoded token. Their parameters then lie apart: a slice of
a stacked array would be copied as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from mirothinker_jax.config import ModelConfig
from mirothinker_jax.models.attention import Attention
from mirothinker_jax.models.embedding import look_up
from mirothinker_jax.models.layers import ADAPTER_LEAVES, RMSNorm, SwiGLU, parameter
from mirothinker_jax.models.moe import MoE, Routing
from mirothinker_jax.models.rope import rotation
from mirothinker_jax.parallel.attend import SAVED, Attend
from mirothinker_jax.parallel.experts import ROUTES
from mirothinker_jax.parallel.sharding import HOST, constrain

Params = dict[str, Any]
STACKED = "blocks"  # the part of them whose leading dim is the layer
STREAM = "residual_stream"  # name of a block's input, for rematerialisation policies


def _offload(*names: str) -> Any:
    """A rematerialisation policy under which arrays of these names wait in the host's memory."""
    return jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[ROUTES],
        names_which_can_be_offloaded=[*names],
        offload_src="device",
        offload_dst=HOST,
    )


REMAT = {
    "full": jax.checkpoint_policies.save_only_these_names(ROUTES),
    "attention": jax.checkpoint_policies.save_only_these_names(SAVED, ROUTES),
    "offload": _offload(SAVED),
    "offload-all": _offload(SAVED, STREAM),
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names(SAVED, ROUTES),
    ),
}


class Block(nnx.Module):
    """A decoder layer: attention and feed-forward, each behind a norm and beside a residual."""

    def __init__(self, rngs: nnx.Rngs, config: ModelConfig):
        c = config
        norm = lambda: RMSNorm((c.layers, c.hidden), ("layers", "embed"), c.norm_eps, c.param_dtype)  # noqa: E731
        self.attention_norm, self.mlp_norm = norm(), norm()
        self.attention = Attention(rngs, c)
        self.mlp = None if c.moe.experts else SwiGLU(rngs, c)
        self.moe = MoE(rngs, c) if c.moe.experts else None

    def __call__(self, x, rotation, attend, layer_cache, counts, routes) -> tuple[Any, ...]:
        """[B, T, D] → ([B, T, D], the new layer cache, what the router did or None)."""
        mixed, layer_cache = self.attention(self.attention_norm(x), rotation, attend, layer_cache)
        x = constrain(x + mixed, "batch", "length", "hidden")
        normal = self.mlp_norm(x)
        if self.moe is not None:
            made, routing = self.moe(normal, counts, routes)
        else:
            assert self.mlp is not None
            made, routing = self.mlp(normal), None
        return constrain(x + made, "batch", "length", "hidden"), layer_cache, routing


class Qwen(nnx.Module):
    """The decoder: tokens int32 [B, T] to hidden states [B, T, D]."""

    def __init__(self, config: ModelConfig, vocab_size: int, rngs: nnx.Rngs):
        c = config
        self.config = c
        # 0.02: the family's initializer_range; the tied head would otherwise start with huge logits.
        shape, axes = (vocab_size, c.hidden), ("vocab", "embed")
        self.embedding = parameter(rngs, shape, axes, c.param_dtype, 0.02)
        self.blocks = Block(rngs, c)
        self.norm = RMSNorm((c.hidden,), ("embed",), c.norm_eps, c.param_dtype)
        self.head = None if c.tied_head else parameter(rngs, shape, axes, c.param_dtype, 0.02)

    def __call__(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        attend: Attend,
        cache: list[Any] | None = None,
        counts: jax.Array | None = None,
        routes: jax.Array | None = None,
        unstacked: Sequence[Params] | None = None,
    ) -> tuple[jax.Array, list[Any] | None, Routing | None]:
        """Hidden states before the head, [B, T, D] in the compute dtype; the new cache; what the routers did.

        Args:
          tokens, positions: int32 [B, T].
          attend: attention over the row or the cache (parallel.attend).
          cache: one entry per layer, handed to `attend`; None when training.
          counts: bool [B, T], the tokens that routers' statistics are of; None: all.
          routes: int [B, T, L, k], experts to use instead of the routers' choice; None, or −1: theirs.
          unstacked: with a cache, each layer's parameters; the module then has the first one's.
        """
        dtype = self.config.compute_dtype
        x = look_up(self.embedding[...], tokens, dtype)
        # Behind a barrier, or a compiler makes them again in every layer backward.
        angles = jax.lax.optimization_barrier(
            rotation(positions, self.config.head_dim, self.config.rope_theta, self.config.yarn)
        )
        graph, layers = nnx.split(self.blocks)
        if routes is not None:
            routes = jnp.moveaxis(routes, 2, 0).astype(jnp.int32)

        if cache is not None:
            updated, routings = [], []
            assert unstacked is not None and routes is None, (
                "sampling has each layer's parameters, and routes itself"
            )
            for layer, layer_cache in zip(unstacked, cache, strict=True):
                x, layer_cache, routing = nnx.merge(graph, layer)(
                    x, angles, attend, layer_cache, counts, None
                )
                updated.append(layer_cache)
                routings.append(routing)
            return self.norm(x), updated, jax.tree.map(lambda *r: jnp.stack(r), *routings)

        def block(x, layer) -> tuple[Any, ...]:
            layer, route = layer
            x = checkpoint_name(x, STREAM)
            x, _, routing = nnx.merge(graph, layer)(x, angles, attend, None, counts, route)
            return x, routing

        if self.config.remat != "none":
            block = jax.checkpoint(block, policy=REMAT[self.config.remat], prevent_cse=False)
        x, routing = jax.lax.scan(block, x, (layers, routes))
        return self.norm(x), None, routing

    @property
    def head_weight(self) -> jax.Array:
        """[V, D]."""
        return (self.embedding if self.head is None else self.head)[...]

    @staticmethod
    def structure(config: ModelConfig, vocab_size: int) -> tuple[nnx.GraphDef, Params, Params]:
        """Graph definition, abstract parameters (ShapeDtypeStruct leaves) and their logical axes."""
        abstract = nnx.eval_shape(lambda: Qwen(config, vocab_size, nnx.Rngs(0)))
        graph, state = nnx.split(abstract)
        axes = jax.tree.map(
            lambda p: p.get_metadata()["axes"], state, is_leaf=lambda p: isinstance(p, nnx.Variable)
        )
        return graph, nnx.to_pure_dict(state), nnx.to_pure_dict(axes)

    @staticmethod
    def init(config: ModelConfig, vocab_size: int, key: jax.Array) -> Params:
        """Fresh parameters; jit it with out_shardings so that they are born sharded."""
        return nnx.to_pure_dict(nnx.state(Qwen(config, vocab_size, nnx.Rngs(params=key))))


def count_parameters(params: Params) -> int:
    """How many numbers the parameters hold."""
    return sum(p.size for p in jax.tree.leaves(params))


def merge(graph: nnx.GraphDef, params: Params) -> Qwen:
    """The module of these parameters, at trace time."""
    return nnx.merge(graph, params)


def split(config: ModelConfig, params: Params) -> tuple[Params, Params]:
    """(trained, frozen): the adapters and all else where there are adapters; otherwise everything and nothing."""
    if config.lora.rank == 0:
        return params, {}
    trained, frozen = {}, {}
    for key, value in params.items():
        if isinstance(value, dict):
            a, b = split(config, value)
            trained |= {key: a} if a else {}
            frozen |= {key: b} if b else {}
        else:
            (trained if key in ADAPTER_LEAVES else frozen)[key] = value
    return trained, frozen


def combine(trained: Params, frozen: Params) -> Params:
    """What `split` took apart."""
    both = dict(frozen)
    for key, value in trained.items():
        both[key] = combine(value, frozen.get(key, {})) if isinstance(value, dict) else value
    return both
