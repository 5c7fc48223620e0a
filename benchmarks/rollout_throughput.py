"""The local engine beside transformers' generate, on a CPU: requests of mixed length, and episodes with tools.

    pip install -e ".[parity]"
    python benchmarks/rollout_throughput.py

Both sample at temperature 1 from a Qwen3 decoder of 30M parameters in float32, on two cores. 32 requests come at once;
prompts have 16 to 256 tokens and answers 16 to 512, log-uniform, the same ones for both, and no token ends an answer.
transformers takes them as one static batch, padded on the left, and samples until the longest answer is done, which is
how it is used where nobody batches continuously. Tokens beyond an answer's length are not counted. Each system is a
process of its own; they take turns, and the median counts. Compiling is not in it. On a busy machine torch's threads
wait for one another by spinning: there, `--threads 1` and CPU-seconds are what to read.

The episodes have 20 turns each: a prompt, then a sampled turn and a tool's result in turn, every time with the whole
context. What is prefilled is compared with what is new: prompts and results.

Left out: accelerators, quantised caches, transformers' own continuous batching, end tokens.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import multiprocessing
import os
import statistics
import time
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from measuring import Options
from results import device, finish, table

SYSTEMS = ("ours", "transformers")
VOCAB, HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, FFN = 8192, 512, 8, 8, 4, 64, 1536
TURNS = 20


@dataclasses.dataclass(frozen=True)
class Setting:
    requests: int
    episodes: int
    rounds: int
    threads: int
    seed: int


def requests(s: Setting) -> list[tuple[list[int], int]]:
    """Prompts, and the number of tokens to sample after each."""
    rng = np.random.default_rng(s.seed)
    lengths = np.exp(rng.uniform(np.log([16, 16]), np.log([256, 512]), (s.requests, 2))).astype(int)
    return [(rng.integers(0, VOCAB, prompt).tolist(), int(answer)) for prompt, answer in lengths]


def serve_ours(s: Setting, pipe: Connection) -> None:
    """Samples the requests whenever asked, and the episodes when asked for these."""
    from mirothinker_jax.agent.policy import Request
    from mirothinker_jax.config import MeshConfig, ModelConfig, RolloutConfig
    from mirothinker_jax.models.qwen import count_parameters
    from mirothinker_jax.models.spec import ModelSpec
    from mirothinker_jax.parallel.mesh import make_mesh
    from mirothinker_jax.rollout.local.device import Device
    from mirothinker_jax.rollout.local.driver import LocalEngine

    shape: dict[str, Any] = dict(hidden=HIDDEN, layers=LAYERS, heads=HEADS, kv_heads=KV_HEADS, ffn=FFN)
    config = ModelConfig(**shape, head_dim=HEAD_DIM, remat="none", compute_dtype="float32")
    model = ModelSpec.build(config, VOCAB, make_mesh(MeshConfig()))
    rollout = RolloutConfig(
        slots=32, page_tokens=64, prefill_tokens=32, prefill_slots=32, decode_steps=8, pages=1024
    )
    engine_device, params = Device(model, rollout, 2048, end_ids=()), model.init(s.seed)
    engine_device.load(params)

    async def batch(engine: LocalEngine) -> None:
        work = [
            engine.generate(Request(str(i), ids, count, seed=i)) for i, (ids, count) in enumerate(requests(s))
        ]
        await asyncio.gather(*work)

    async def episodes(engine: LocalEngine) -> tuple[int, int]:
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
        async with LocalEngine(engine_device) as engine:
            return await work(engine)

    while (order := pipe.recv()) is not None:
        begun, used = time.perf_counter(), time.process_time()
        result = asyncio.run(one(episodes if order == "episodes" else batch))
        pipe.send((time.perf_counter() - begun, time.process_time() - used, result, count_parameters(params)))


def serve_transformers(s: Setting, pipe: Connection) -> None:
    """Samples the requests as one static batch whenever asked."""
    import torch  # pyright: ignore[reportMissingImports]
    import transformers  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(s.threads)
    torch.manual_seed(s.seed)
    config = transformers.Qwen3Config(
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=HEAD_DIM,
        intermediate_size=FFN,
        tie_word_embeddings=True,
        max_position_embeddings=2048,
    )
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    prompts = [ids for ids, _ in requests(s)]
    longest, most = max(map(len, prompts)), max(count for _, count in requests(s))
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    options = dict(attention_mask=mask, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, pad_token_id=0)

    def batch(count: int) -> None:
        with torch.no_grad():
            made = model.generate(ids, max_new_tokens=count, min_new_tokens=count, **options)
        assert made.shape == (len(prompts), longest + count)

    batch(2)
    while pipe.recv() is not None:
        begun, used = time.perf_counter(), time.process_time()
        batch(most)
        pipe.send((time.perf_counter() - begun, time.process_time() - used, None, model.num_parameters()))


def main() -> None:
    options = arguments()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])  # inherited
    os.environ["JAX_PLATFORMS"] = "cpu"
    setting = Setting(**{f.name: getattr(options, f.name) for f in dataclasses.fields(Setting)})
    context = multiprocessing.get_context("spawn")
    pipes = {}
    for name, serve in zip(SYSTEMS, (serve_ours, serve_transformers), strict=True):
        pipes[name], theirs = context.Pipe()
        context.Process(target=serve, args=(setting, theirs), daemon=True).start()

    def ask(name: str, order: str) -> Any:
        pipes[name].send(order)
        return pipes[name].recv()

    ask("ours", "batch")  # the first one warms caches of the host
    taken = [{name: ask(name, "batch") for name in SYSTEMS} for _ in range(setting.rounds)]
    *_, (prefilled, new), _ = ask("ours", "episodes")
    for pipe in pipes.values():
        pipe.send(None)
    median = {n: [statistics.median(t[n][i] for t in taken) for i in range(2)] for n in SYSTEMS}
    tokens = sum(count for _, count in requests(setting))
    lines = [
        (n, f"{median[n][0]:.1f}", f"{median[n][1]:.1f}", f"{tokens / median[n][0]:.0f}") for n in SYSTEMS
    ]
    print(table(("system", "seconds", "CPU-seconds", "tokens/s"), lines))
    assert taken[0]["ours"][3] == taken[0]["transformers"][3], "two different models"
    figures = {
        "vs_transformers": round(median["transformers"][0] / median["ours"][0], 2),
        "vs_transformers_cpu": round(median["transformers"][1] / median["ours"][1], 2),
        "prefill_over_new_tokens": round(prefilled / new, 3),
        "tokens": tokens,
        "parameters": taken[0]["ours"][3],
        **{f"{n}_seconds": round(median[n][0], 2) for n in SYSTEMS},
        **{f"{n}_cpu_seconds": round(median[n][1], 2) for n in SYSTEMS},
        "setting": dataclasses.asdict(setting),
        "device": device(),
    }
    finish("rollout_throughput", figures)


def arguments() -> argparse.Namespace:
    options = Options(__doc__)
    options.add("requests", 32, "requests that come at once")
    options.add("episodes", 8, "episodes with tools")
    options.add("rounds", 1, "times that both take the requests, in turn")
    options.add("threads", 2, "cores")
    options.add("seed", 0, "of weights, prompts and lengths")
    return options.parse_args()


if __name__ == "__main__":
    main()
