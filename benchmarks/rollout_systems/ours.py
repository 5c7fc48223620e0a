"""Our engine: the requests come at once, and are batched continuously over pages."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
from work import (
    CONTEXT,
    FFN,
    HEAD_DIM,
    HEADS,
    HIDDEN,
    KV_HEADS,
    LAYERS,
    TURNS,
    VOCAB,
    Setting,
    requests,
    serve,
)

from mirothinker_jax.agent.policy import Request
from mirothinker_jax.config import MeshConfig, ModelConfig, RolloutConfig
from mirothinker_jax.models.qwen import count_parameters
from mirothinker_jax.models.spec import ModelSpec
from mirothinker_jax.parallel.mesh import make_mesh
from mirothinker_jax.rollout.local.device import Device
from mirothinker_jax.rollout.local.driver import LocalEngine


def system(s: Setting):
    shape: dict[str, Any] = dict(hidden=HIDDEN, layers=LAYERS, heads=HEADS, kv_heads=KV_HEADS, ffn=FFN)
    config = ModelConfig(**shape, head_dim=HEAD_DIM, remat="none", compute_dtype="float32")
    model = ModelSpec.build(config, VOCAB, make_mesh(MeshConfig()))
    rollout = RolloutConfig(
        slots=32, page_tokens=128, prefill_tokens=32, prefill_slots=32, decode_steps=16, pages=512
    )
    device, params = Device(model, rollout, CONTEXT, end_ids=()), model.init(s.seed)
    device.load(params)

    async def batch(engine: LocalEngine) -> None:
        work = [
            engine.generate(Request(str(i), ids, count, seed=i)) for i, (ids, count) in enumerate(requests(s))
        ]
        await asyncio.gather(*work)

    async def episodes(engine: LocalEngine) -> tuple[int, int]:
        """Tokens prefilled, and new ones: prompts and results."""

        async def episode(index: int) -> int:
            rng = np.random.default_rng((s.seed, index))
            ids: list[int] = []
            new = 0
            for turn in range(TURNS):
                fed = rng.integers(0, VOCAB, rng.integers(20, 80) if turn else rng.integers(80, 200)).tolist()
                ids, new = ids + fed, new + len(fed)
                request = Request(str(index), ids, int(rng.integers(4, 24)), seed=index)
                ids = ids + list((await engine.generate(request)).tokens)
                await asyncio.sleep(rng.exponential(0.02))  # its tool
            return new

        new = sum(await asyncio.gather(*map(episode, range(s.episodes))))
        return engine.prefilled_tokens, new

    async def one(work: Any) -> Any:
        async with LocalEngine(device) as engine:
            return await work(engine)

    works = {"batch": lambda: asyncio.run(one(batch)), "episodes": lambda: asyncio.run(one(episodes))}
    works["batch"]()  # the first one warms caches of the host
    return works, count_parameters(params)


if __name__ == "__main__":
    serve(system)
