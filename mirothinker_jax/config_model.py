"""The model's settings: a decoder of the Qwen family. models/presets.py has the published sizes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from mirothinker_jax.config_tree import check, one_of

# From what keeps most on a device to what keeps least.
REMAT = ("none", "dots", "attention", "offload", "full", "offload-all")
CONTEXT_KEYS = ("auto", "ring", "all-gather")
# Settings of how a model is stored and run, not of what it is.
EXECUTION = ("init_from", "param_dtype", "compute_dtype", "remat", "ffn_tokens", "context")
LORA_TARGETS = ("q", "k", "v", "out", "gate", "up", "down")


@dataclass(frozen=True)
class YarnConfig:
    """Longer contexts by YaRN (arXiv 2309.00071): rotary frequencies stretched by `factor`, the slow ones only."""

    factor: float = 1.0  # how many times the native context; 1: no stretching
    native_tokens: int = 32768  # the context that the model was trained with
    beta_fast: float = 32.0  # dims that turn more often than this within the native context stay as they are
    beta_slow: float = 1.0  # dims that turn less often than this are stretched by the whole factor
    attention_factor: float = 0.0  # on the rotated queries and keys; 0: 0.1 · ln(factor) + 1

    def __post_init__(self):
        check(self.factor >= 1, f"model.yarn.factor is {self.factor}; it must be ≥ 1 (1: no stretching)")
        check(self.native_tokens >= 1, f"model.yarn.native_tokens is {self.native_tokens}; it must be ≥ 1")
        check(
            self.beta_fast > self.beta_slow > 0,
            f"model.yarn.beta_fast ({self.beta_fast}) must be above model.yarn.beta_slow ({self.beta_slow}) > 0",
        )
        check(
            self.attention_factor >= 0,
            f"model.yarn.attention_factor is {self.attention_factor}; give 0 for the usual one",
        )

    @property
    def scale(self) -> float:
        """What multiplies cos and sin; 1 for a factor of 1 without an attention_factor."""
        return self.attention_factor or 0.1 * math.log(self.factor) + 1.0


@dataclass(frozen=True)
class MoEConfig:
    """A mixture of experts in place of the feed-forward block, in every layer (Qwen3-MoE, arXiv 2505.09388)."""

    experts: int = 0  # per layer; 0: a dense feed-forward block
    experts_per_token: int = 8  # how many of them each token is sent to
    expert_ffn: int = 768  # inner size of one expert
    norm_topk: bool = True  # the chosen experts' weights are scaled to a sum of 1
    balance_coef: float = 0.001  # of the load-balance loss (arXiv 2101.03961, eq. 4), added to any objective

    def __post_init__(self):
        check(self.experts >= 0, f"model.moe.experts is {self.experts}; give 0 for a dense model")
        check(self.expert_ffn >= 1, f"model.moe.expert_ffn is {self.expert_ffn}; it must be ≥ 1")
        check(self.balance_coef >= 0, f"model.moe.balance_coef is {self.balance_coef}; it must be ≥ 0")
        check(
            self.experts_per_token >= 1 and (not self.experts or self.experts_per_token <= self.experts),
            f"model.moe.experts_per_token is {self.experts_per_token}; give 1 … model.moe.experts ({self.experts})",
        )


@dataclass(frozen=True)
class LoRAConfig:
    """Low-rank adapters (arXiv 2106.09685): the model is frozen, and only they are trained."""

    rank: int = 0  # 0: the whole model is trained
    alpha: float = 32.0  # an adapter's output is scaled by alpha / rank
    targets: tuple[str, ...] = LORA_TARGETS  # the linear layers that have one

    def __post_init__(self):
        check(self.rank >= 0, f"model.lora.rank is {self.rank}; give 0 to train the whole model")
        check(self.alpha > 0, f"model.lora.alpha is {self.alpha}; it must be > 0")
        check(bool(self.targets), f"model.lora.targets is empty; give some of {', '.join(LORA_TARGETS)}")
        for target in self.targets:
            one_of("model.lora.targets", target, LORA_TARGETS)


@dataclass(frozen=True)
class ContextConfig:
    """How queries meet the keys of other devices, where mesh.context splits a row. The result is the same."""

    # ring: they go round; all-gather: every device gets all of them; auto: by the tokens of a device and its heads.
    keys: str = "auto"
    # Neighbours that exchange tokens for heads first; where that is all of mesh.context, nothing else is needed.
    # 0: as many as the tokens and heads ask for; none where keys is given.
    ulysses: int = 0

    def __post_init__(self):
        one_of("model.context.keys", self.keys, CONTEXT_KEYS)
        check(
            self.ulysses >= 0,
            f"model.context.ulysses is {self.ulysses}; give 1 (no exchange) or more, or 0 (auto)",
        )


@dataclass(frozen=True)
class ModelConfig:
    """A Qwen3, Qwen3-MoE or Qwen2.5 decoder (arXiv 2505.09388, 2412.15115)."""

    vocab_size: int = 0  # 0: the tokenizer's
    hidden: int = 128  # size of the residual stream
    layers: int = 2  # decoder blocks
    heads: int = 4  # query heads
    kv_heads: int = 2  # key/value heads, each shared by heads / kv_heads query heads
    head_dim: int = 32  # size of a head
    ffn: int = 384  # inner size of the feed-forward block
    rope_theta: float = 1e6  # base of the rotary embedding
    yarn: YarnConfig = field(default_factory=YarnConfig)
    norm_eps: float = 1e-6  # added to the mean square in RMSNorm
    qk_norm: bool = True  # Qwen3
    qkv_bias: bool = False  # Qwen2.5
    tied_head: bool = True  # the output matrix is the embedding, transposed
    moe: MoEConfig = field(default_factory=MoEConfig)
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    context: ContextConfig = field(default_factory=ContextConfig)
    init_from: str = ""  # run folder, or stage folder, whose newest checkpoint holds the first parameters
    param_dtype: str = "float32"  # of the stored parameters: float32, or bfloat16 with stochastic rounding
    compute_dtype: str = "float32"  # of matrix products and activations: float32 or bfloat16
    # Recomputed in the backward pass: nothing (none), all but matrix products and attention (dots), all but attention's
    # results (attention; with offload they wait in the host's memory, with offload-all the blocks' inputs too), or
    # everything but the blocks' inputs (full). Routes always stay.
    remat: str = "full"
    # When training, so many of a device's tokens go through the feed-forward block at a time; 0: all. Saves memory
    # where a device has more than about 2.4 · hidden + ffn_tokens of them. Not for blocks with experts or adapters.
    ffn_tokens: int = 0

    def __post_init__(self):
        for key in ("hidden", "layers", "heads", "kv_heads", "head_dim", "ffn"):
            check(getattr(self, key) >= 1, f"model.{key} is {getattr(self, key)}; it must be ≥ 1")
        check(self.vocab_size >= 0, f"model.vocab_size is {self.vocab_size}; give 0 to use the tokenizer's")
        check(
            self.heads % self.kv_heads == 0,
            f"model.heads ({self.heads}) must be a multiple of model.kv_heads ({self.kv_heads})",
        )
        check(self.head_dim % 2 == 0, f"model.head_dim is {self.head_dim}; rotary embedding needs it even")
        one_of("model.param_dtype", self.param_dtype, ("float32", "bfloat16"))
        one_of("model.compute_dtype", self.compute_dtype, ("float32", "bfloat16"))
        one_of("model.remat", self.remat, REMAT)
        adapted = self.lora.rank > 0 and {"gate", "up", "down"} & set(self.lora.targets)
        check(self.ffn_tokens >= 0, f"model.ffn_tokens is {self.ffn_tokens}; give 0 for all of a device's")
        check(
            not self.ffn_tokens or not (self.moe.experts or adapted),
            f"model.ffn_tokens is {self.ffn_tokens}, which is for feed-forward blocks without experts "
            "(model.moe.experts) and adapters (model.lora.targets); give 0",
        )
