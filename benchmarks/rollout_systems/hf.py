"""The model as transformers describes it."""

from __future__ import annotations

import transformers  # pyright: ignore[reportMissingImports]
from work import CONTEXT, FFN, HEAD_DIM, HEADS, HIDDEN, KV_HEADS, LAYERS, VOCAB


def config():
    return transformers.Qwen3Config(
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=HEAD_DIM,
        intermediate_size=FFN,
        tie_word_embeddings=True,
        max_position_embeddings=CONTEXT,
    )
