"""This project's own training step, exactly as the training loop makes it."""

from __future__ import annotations

import importlib.metadata

import jax
import numpy as np
from work import Setting, serve

from mirothinker_jax.config import MeshConfig, ModelConfig, OptimizerConfig
from mirothinker_jax.data.packing import Sample, pack_rows
from mirothinker_jax.models.spec import ModelSpec
from mirothinker_jax.objectives.sft import sft
from mirothinker_jax.parallel.mesh import make_mesh
from mirothinker_jax.parallel.placement import to_global
from mirothinker_jax.trainer.optimizer import make_optimizer
from mirothinker_jax.trainer.state import init_state
from mirothinker_jax.trainer.step import make_step


def system(s: Setting, weights: dict[str, np.ndarray], batch: dict[str, np.ndarray]):
    config = ModelConfig(
        hidden=s.hidden,
        layers=s.layers,
        heads=s.heads,
        kv_heads=s.kv_heads,
        head_dim=s.head_dim,
        ffn=s.ffn,
        rope_theta=s.rope_theta,
        norm_eps=s.norm_eps,
        remat=s.remat,
    )
    settings = OptimizerConfig(
        learning_rate=s.learning_rate,
        schedule="constant",
        warmup_fraction=0.0,
        weight_decay=s.weight_decay,
        b1=s.b1,
        b2=s.b2,
        eps=s.eps,
        clip_norm=s.clip_norm,
    )
    model = ModelSpec.build(config, s.vocab, make_mesh(MeshConfig()))
    optimizer = make_optimizer(settings, 1)
    rows = pack_rows([Sample(t, w) for t, w in zip(batch["tokens"], batch["trained"], strict=True)], s.tokens)
    with jax.set_mesh(model.mesh):
        params = jax.device_put(nested(weights), model.shardings)
        state = init_state(model, optimizer, params)
        placed, used = to_global(model.mesh, rows, s.rows, 1)
        train = make_step(model, sft, optimizer)

    def step() -> float:
        nonlocal state
        with jax.set_mesh(model.mesh):
            state, figures = train(state, placed, used)
        jax.block_until_ready(state)
        return float(figures["loss"])

    names = ("jax", "jaxlib", "flax", "optax")
    return step, {"versions": {name: importlib.metadata.version(name) for name in names}}


def nested(weights: dict[str, np.ndarray]) -> dict:
    """`{"a/b": x}` → `{"a": {"b": x}}`."""
    tree: dict = {}
    for path, value in weights.items():
        *groups, last = path.split("/")
        owner = tree
        for group in groups:
            owner = owner.setdefault(group, {})
        owner[last] = value
    return tree


if __name__ == "__main__":
    serve(system)
