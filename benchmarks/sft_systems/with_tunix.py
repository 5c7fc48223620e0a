"""google-tunix: its own Qwen3 and the train step that its PeftTrainer.train runs, with all parameters trained."""

from __future__ import annotations

import importlib.metadata

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tunix.models.qwen3 import model as qwen3  # pyright: ignore[reportMissingImports]
from tunix.sft import peft_trainer  # pyright: ignore[reportMissingImports]
from work import Setting, serve


def system(s: Setting, weights: dict[str, np.ndarray], batch: dict[str, np.ndarray]):
    config = qwen3.ModelConfig(
        num_layers=s.layers,
        vocab_size=s.vocab,
        embed_dim=s.hidden,
        hidden_dim=s.ffn,
        num_heads=s.heads,
        head_dim=s.head_dim,
        num_kv_heads=s.kv_heads,
        rope_theta=int(s.rope_theta),
        norm_eps=s.norm_eps,
        use_tied_embedding=True,
    )
    model = qwen3.Qwen3(config, rngs=nnx.Rngs(0))
    for path, parameter in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        parameter[...] = jnp.asarray(theirs(path, weights))
        nnx.update(model, nnx.from_flat_state([(path, parameter)]))
    decayed = lambda params: jax.tree.map(lambda p: p.ndim > 1, params)  # noqa: E731
    optimizer = optax.chain(
        optax.clip_by_global_norm(s.clip_norm),
        optax.adamw(s.learning_rate, s.b1, s.b2, s.eps, weight_decay=s.weight_decay, mask=decayed),
    )
    trainer = peft_trainer.PeftTrainer(
        model, optimizer, peft_trainer.TrainingConfig(eval_every_n_steps=1_000_000)
    )
    causal = jnp.tril(jnp.ones((s.tokens, s.tokens), bool))
    inputs = {
        "input_tokens": jnp.asarray(batch["tokens"]),
        "input_mask": jnp.asarray(batch["trained"]),
        "positions": jnp.broadcast_to(jnp.arange(s.tokens), (s.rows, s.tokens)),
        "attention_mask": jnp.broadcast_to(causal, (s.rows, s.tokens, s.tokens)),
    }
    train, _ = trainer.jit_train_and_eval_step(cache_nnx_graph=True)

    def step() -> float:
        loss, _, _ = train(inputs)
        jax.block_until_ready(nnx.state(model, nnx.Param))
        return float(loss)

    names = ("google-tunix", "jax", "jaxlib", "flax", "optax")
    return step, {"versions": {name: importlib.metadata.version(name) for name in names}}


def theirs(path: tuple, weights: dict[str, np.ndarray]) -> np.ndarray:
    """Our weight of this path of theirs: the same layout, but a layer apart."""
    if path[0] == "embedder":
        return weights["embedding"]
    if path[0] == "final_norm":
        return weights["norm/weight"]
    _, layer, *part = path
    ours = {
        ("attn", "q_proj"): "attention/q/kernel",
        ("attn", "k_proj"): "attention/k/kernel",
        ("attn", "v_proj"): "attention/v/kernel",
        ("attn", "o_proj"): "attention/out/kernel",
        ("attn", "q_norm"): "attention/q_norm/weight",
        ("attn", "k_norm"): "attention/k_norm/weight",
        ("mlp", "gate_proj"): "mlp/gate/kernel",
        ("mlp", "up_proj"): "mlp/up/kernel",
        ("mlp", "down_proj"): "mlp/down/kernel",
        ("input_layernorm",): "attention_norm/weight",
        ("post_attention_layernorm",): "mlp_norm/weight",
    }[tuple(part[:-1])]
    return weights[f"blocks/{ours}"][int(layer)]


if __name__ == "__main__":
    serve(system)
