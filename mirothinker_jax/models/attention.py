"""Grouped-query attention as Qwen3 (QK-norm) and Qwen2.5 (QKV bias) have it; the kernel is injected."""

from __future__ import annotations

import jax
from flax import nnx

from mirothinker_jax.config import ModelConfig
from mirothinker_jax.models.layers import Projection, RMSNorm
from mirothinker_jax.models.rope import rotate


class Attention(nnx.Module):
    """Grouped-query attention with rotary positions; how keys are met is injected."""

    def __init__(self, rngs: nnx.Rngs, config: ModelConfig):
        c = config
        embed = {"embed": c.hidden}
        query = {"heads": c.heads, "head_dim": c.head_dim}
        key = {"kv_heads": c.kv_heads, "head_dim": c.head_dim}
        self.q = Projection(rngs, c, "q", embed, query, "btd,dhe->bthe", c.qkv_bias)
        self.k = Projection(rngs, c, "k", embed, key, "btd,dke->btke", c.qkv_bias)
        self.v = Projection(rngs, c, "v", embed, key, "btd,dke->btke", c.qkv_bias)
        self.out = Projection(rngs, c, "out", query, embed, "bthe,hed->btd", residual=True)
        shape, axes = (c.layers, c.head_dim), ("layers", None)
        self.q_norm = RMSNorm(shape, axes, c.norm_eps, c.param_dtype) if c.qk_norm else None
        self.k_norm = RMSNorm(shape, axes, c.norm_eps, c.param_dtype) if c.qk_norm else None

    def __call__(self, x, rotation, attend, layer_cache) -> tuple[jax.Array, object]:
        """x [B, T, D] → ([B, T, D], new layer cache); see parallel.attend.Attend for the injected function."""
        q, k, v = self.q(x), self.k(x), self.v(x)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        out, layer_cache = attend(rotate(q, *rotation), rotate(k, *rotation), v, layer_cache)
        return self.out(out), layer_cache
