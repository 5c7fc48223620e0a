"""This project's own training step, exactly as the training loop makes it."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from work import Setting, serve

from mirothinker_jax.config import MeshConfig, ModelConfig, OptimizerConfig
from mirothinker_jax.config_tree import build
from mirothinker_jax.data.packing import Sample, pack_rows
from mirothinker_jax.models.spec import ModelSpec
from mirothinker_jax.objectives.sft import sft
from mirothinker_jax.parallel.mesh import make_mesh
from mirothinker_jax.parallel.placement import to_global
from mirothinker_jax.trainer.optimizer import make_optimizer
from mirothinker_jax.trainer.state import init_state
from mirothinker_jax.trainer.step import make_step


def system(s: Setting) -> tuple[Callable[[], float], Callable[[], int], dict[str, Any]]:
    config = build(ModelConfig, s.model)
    model = ModelSpec.build(config, config.vocab_size, make_mesh(MeshConfig()))
    settings = OptimizerConfig(learning_rate=1e-4, schedule="constant", warmup_fraction=0.0)
    optimizer = make_optimizer(settings, 1)
    rng = np.random.default_rng(s.seed)
    rows = rng.integers(0, config.vocab_size, (s.rows, s.tokens)).astype(np.int32)
    batch = pack_rows([Sample(row, np.ones(s.tokens, bool)) for row in rows], s.tokens)
    with jax.set_mesh(model.mesh):
        state = init_state(model, optimizer, model.init(s.seed))
        placed, used = to_global(model.mesh, batch, 1, s.rows)
        begun = time.perf_counter()
        train = make_step(model, sft, optimizer).lower(state, placed, used).compile()  # pyright: ignore
        compile_s = time.perf_counter() - begun

    def step() -> float:
        nonlocal state
        with jax.set_mesh(model.mesh):
            state, figures = train(state, placed, used)
        return float(jax.block_until_ready((figures, state))[0]["loss"])

    gpu, sizes = jax.devices()[0], train.memory_analysis()
    about = {
        "gpu": gpu.device_kind,
        "compile_s": compile_s,
        "xla_temporary_bytes": sizes.temp_size_in_bytes,
        "host_bytes": sizes.host_temp_size_in_bytes,
        "versions": {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax")},
    }
    return step, lambda: gpu.memory_stats()["peak_bytes_in_use"], about


if __name__ == "__main__":
    serve(system)
