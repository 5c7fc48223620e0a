"""The smallest model that has every part, and packed batches for it: what many tests share."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from mirothinker_jax.config import MeshConfig, ModelConfig, MoEConfig
from mirothinker_jax.data.packing import Pair, Sample
from mirothinker_jax.models.qwen import Params, Qwen
from mirothinker_jax.parallel.mesh import make_mesh

VOCAB = 64
SHAPE = dict(hidden=32, layers=2, heads=4, kv_heads=2, head_dim=8, ffn=48, rope_theta=1e4, remat="none")
QWEN3 = ModelConfig(**SHAPE)
QWEN2 = ModelConfig(**SHAPE, qk_norm=False, qkv_bias=True, tied_head=False)
MOE = ModelConfig(**SHAPE, moe=MoEConfig(experts=8, experts_per_token=3, expert_ffn=24, balance_coef=0.1))


def params(config: ModelConfig, seed: int = 0) -> Params:
    """Random parameters, made by numpy (compiling the model's own init takes seconds); norms near 1."""
    rng = np.random.default_rng(seed)

    def draw(path, shape):
        norm = path[-1].key == "weight"
        scale = 0.1 if norm or path[-1].key == "bias" else (shape.shape[-1] ** -0.5)
        return jnp.asarray(norm + scale * rng.normal(size=shape.shape), shape.dtype)

    _, abstract, _ = Qwen.structure(config, VOCAB)
    return jax.tree_util.tree_map_with_path(draw, abstract)


def mesh(**sizes: int):
    """A mesh of exactly these sizes over the first devices; without any, of one device."""
    shape = {"fsdp": 1} | sizes
    return make_mesh(MeshConfig(**shape), jax.devices()[: math.prod(shape.values())])


def sample(rng: np.random.Generator, length: int, prompt: int = 2) -> Sample:
    """Random tokens, all trained but the first `prompt`, with random advantage and sampler log-probs."""
    trained = np.arange(length) >= prompt
    return Sample(
        tokens=rng.integers(0, VOCAB, length).astype(np.int32),
        trained=trained,
        advantages=np.where(trained, rng.normal(), 0.0).astype(np.float32),
        sampler_logprobs=np.where(trained, -rng.uniform(2.0, 6.0, length), 0.0).astype(np.float32),
        ref_logprobs=np.where(trained, -rng.uniform(2.0, 6.0, length), 0.0).astype(np.float32),
    )


def samples(seed: int, lengths: Sequence[int]) -> list[Sample]:
    rng = np.random.default_rng(seed)
    return [sample(rng, n) for n in lengths]


def pair(rng: np.random.Generator, prompt: int, chosen: int, rejected: int) -> Pair:
    """A random prompt with two random continuations, trained from their first token on."""
    tokens = rng.integers(0, VOCAB, prompt).astype(np.int32)
    return Pair(tokens, sample(rng, chosen, prompt=0), sample(rng, rejected, prompt=0))


def pairs(seed: int, sizes: Sequence[tuple[int, int, int]]) -> list[Pair]:
    rng = np.random.default_rng(seed)
    return [pair(rng, *size) for size in sizes]


def assert_close(got, expected, relative: float) -> None:
    """Leaf by leaf: the largest difference against the largest expected magnitude."""

    def compare(path, a, b):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        worst, scale = np.abs(a - b).max(initial=0.0), np.abs(b).max(initial=0.0)
        assert worst <= relative * scale + 1e-12, (
            f"{jax.tree_util.keystr(path)}: {worst:.3g} apart, of {scale:.3g}"
        )

    jax.tree_util.tree_map_with_path(compare, got, expected)


def assert_equal(got, expected) -> None:
    """Bit by bit, dtypes too."""

    def compare(path, a, b):
        a, b = np.asarray(a), np.asarray(b)
        assert a.dtype == b.dtype, (jax.tree_util.keystr(path), a.dtype, b.dtype)
        assert a.tobytes() == b.tobytes(), f"{jax.tree_util.keystr(path)} differs"

    jax.tree_util.tree_map_with_path(compare, got, expected)
