"""Hugging Face transformers on PyTorch: Qwen3ForCausalLM, its own loss, sdpa attention, fused AdamW.

The fast path of each of its parts is chosen: full rows, so that attention is plainly causal and needs no
mask; the fused AdamW, which on a CPU is faster than the default one; nothing is recomputed.
"""

from __future__ import annotations

import importlib.metadata

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import transformers  # pyright: ignore[reportMissingImports]
from work import Setting, serve


def system(s: Setting, weights: dict[str, np.ndarray], batch: dict[str, np.ndarray]):
    torch.set_num_threads(s.threads)
    config = transformers.Qwen3Config(
        vocab_size=s.vocab,
        hidden_size=s.hidden,
        intermediate_size=s.ffn,
        num_hidden_layers=s.layers,
        num_attention_heads=s.heads,
        num_key_value_heads=s.kv_heads,
        head_dim=s.head_dim,
        max_position_embeddings=s.tokens,
        rms_norm_eps=s.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": s.rope_theta},
        tie_word_embeddings=True,
        attn_implementation="sdpa",  # pyright: ignore[reportCallIssue]
        use_cache=False,
        dtype=torch.float32,
    )
    model = transformers.Qwen3ForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(theirs(name, weights)))
    model.train()
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": s.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=s.learning_rate,
        betas=(s.b1, s.b2),
        eps=s.eps,
        fused=True,
    )
    tokens = torch.from_numpy(batch["tokens"]).long()
    labels = torch.where(torch.from_numpy(batch["trained"]), tokens, -100)

    def step() -> float:
        loss = model(input_ids=tokens, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), s.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
    return step, {"versions": versions}


def theirs(name: str, weights: dict[str, np.ndarray]) -> np.ndarray:
    """Our weight of this name of theirs, in their layout: a layer apart, [out, in], heads flat."""
    if name == "model.embed_tokens.weight":
        return weights["embedding"]
    if name == "model.norm.weight":
        return weights["norm/weight"]
    _, _, layer, part, *rest = name.split(".")
    ours = {
        "self_attn.q_proj": "attention/q/kernel",
        "self_attn.k_proj": "attention/k/kernel",
        "self_attn.v_proj": "attention/v/kernel",
        "self_attn.o_proj": "attention/out/kernel",
        "self_attn.q_norm": "attention/q_norm/weight",
        "self_attn.k_norm": "attention/k_norm/weight",
        "mlp.gate_proj": "mlp/gate/kernel",
        "mlp.up_proj": "mlp/up/kernel",
        "mlp.down_proj": "mlp/down/kernel",
        "input_layernorm": "attention_norm/weight",
        "post_attention_layernorm": "mlp_norm/weight",
    }[".".join([part, *rest[:-1]])]
    value = weights[f"blocks/{ours}"][int(layer)]
    if value.ndim == 1:
        return value
    inputs = value.shape[0] if ours != "attention/out/kernel" else value.shape[0] * value.shape[1]
    return np.ascontiguousarray(value.reshape(inputs, -1).T)


if __name__ == "__main__":
    serve(system)
