"""google-tunix's own sampler over its own Qwen3: one static batch, padded on the left to a power of two."""

from __future__ import annotations

import jax
from flax import nnx
from tunix.generate.sampler import CacheConfig, Sampler  # pyright: ignore[reportMissingImports]
from tunix.models.qwen3 import model as qwen3  # pyright: ignore[reportMissingImports]
from work import CONTEXT, FFN, HEAD_DIM, HEADS, HIDDEN, KV_HEADS, LAYERS, VOCAB, Setting, requests, serve


class Ids:
    """A tokenizer of texts that are token ids already, none of which ends a turn."""

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids: list[int]) -> str:
        return " ".join(map(str, ids))

    def bos_id(self) -> int:
        return 0

    def eos_id(self) -> int:
        return VOCAB

    def pad_id(self) -> int:
        return VOCAB + 1


def system(s: Setting):
    config = qwen3.ModelConfig(
        num_layers=LAYERS,
        vocab_size=VOCAB,
        embed_dim=HIDDEN,
        hidden_dim=FFN,
        num_heads=HEADS,
        head_dim=HEAD_DIM,
        num_kv_heads=KV_HEADS,
        rope_theta=1_000_000,
        norm_eps=1e-6,
        use_tied_embedding=True,
    )
    model = qwen3.Qwen3(config, rngs=nnx.Rngs(s.seed))
    prompts, most = [], 0
    for ids, count in requests(s):
        prompts.append(" ".join(map(str, ids)))
        most = max(most, count)
    sampler = Sampler(model, Ids(), CacheConfig(CONTEXT, LAYERS, KV_HEADS, HEAD_DIM))

    def batch() -> None:
        made = sampler(prompts, max_generation_steps=most, temperature=1.0, top_p=1.0, seed=s.seed)
        assert all(len(tokens) == most for tokens in made.tokens)

    batch()  # compiles
    parameters = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    return {"batch": batch}, parameters


if __name__ == "__main__":
    serve(system)
