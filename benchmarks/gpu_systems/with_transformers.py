"""Hugging Face transformers on PyTorch: Qwen3ForCausalLM with its own loss, every layer recomputed, fused AdamW."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from typing import Any

import torch  # pyright: ignore[reportMissingImports]
import transformers  # pyright: ignore[reportMissingImports]
from work import Setting, serve


def system(s: Setting) -> tuple[Callable[[], float], Callable[[], int], dict[str, Any]]:
    torch.manual_seed(s.seed)
    config = transformers.Qwen3Config(
        vocab_size=s.model["vocab_size"],
        hidden_size=s.model["hidden"],
        intermediate_size=s.model["ffn"],
        num_hidden_layers=s.model["layers"],
        num_attention_heads=s.model["heads"],
        num_key_value_heads=s.model["kv_heads"],
        head_dim=s.model["head_dim"],
        max_position_embeddings=s.tokens,
        rms_norm_eps=s.model["norm_eps"],
        rope_parameters={"rope_type": "default", "rope_theta": s.model["rope_theta"]},
        tie_word_embeddings=s.model["tied_head"],
        attn_implementation="sdpa",  # pyright: ignore[reportCallIssue]
        use_cache=False,
        dtype=torch.float32,
    )
    with torch.device("cuda"):
        model = transformers.Qwen3ForCausalLM(config)
    model.train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    tokens = torch.randint(0, s.model["vocab_size"], (s.rows, 1, s.tokens), device="cuda")

    def step() -> float:
        total = 0.0
        for row in tokens:
            with torch.autocast("cuda", torch.bfloat16):
                loss = model(input_ids=row, labels=row).loss / s.rows
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(total)

    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
    return step, torch.cuda.max_memory_allocated, {"gpu": torch.cuda.get_device_name(), "versions": versions}


if __name__ == "__main__":
    serve(system)
