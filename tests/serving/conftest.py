"""A tiny model behind our own server, in a thread with an event loop of its own, and its weights in two versions."""

import asyncio
import dataclasses
import threading

import hf_checkpoint
import numpy as np
import pytest

from mirothinker_jax.config import Config, RolloutConfig, build
from mirothinker_jax.models.hf_files import Folder
from mirothinker_jax.models.hf_load import load_params
from mirothinker_jax.models.spec import ModelSpec
from mirothinker_jax.pipeline.policies import starting_values
from mirothinker_jax.pipeline.served import open_served
from mirothinker_jax.serving.server import Limits, Server, bind

MODEL = hf_checkpoint.MODELS["qwen3-tied"]


def config_of(policy):
    """The settings of a server: the policy's own, and small ones."""
    values = starting_values(str(policy), None, "", "", ())
    with values.unlocked(), values.ignore_type():
        values.tokenizer.template = "chatml"
        values.agent.update(context_tokens=512, turn_tokens=64)
        sizes = RolloutConfig(slots=8, prefill_slots=8, prefill_tokens=8, decode_steps=1, page_tokens=8)
        values.rollout = dataclasses.asdict(sizes)
    return build(Config, values)


@pytest.fixture(scope="session")
def policies(tmp_path_factory):
    """Two Hugging Face folders of one shape. The end tokens are unlikely, so that turns are long."""
    folders = []
    for seed in range(2):
        tensors = hf_checkpoint.numbers(MODEL, "float32", seed)
        tensors = {k: v if "norm" in k else 0.3 * v for k, v in tensors.items()}
        tensors["model.embed_tokens.weight"][[hf_checkpoint.PAD, hf_checkpoint.IM_END]] = 0.0
        folder = tmp_path_factory.mktemp("policies") / f"tiny-{seed}"
        folders.append(hf_checkpoint.save(folder, MODEL, tensors))
    return folders


@pytest.fixture(scope="session")
def spec():
    """The model's structure on one device."""
    import tiny

    return ModelSpec.build(MODEL, hf_checkpoint.VOCAB, tiny.mesh())


@pytest.fixture(scope="session")
def params(policies, spec):
    """Of both folders."""
    return [load_params(Folder(folder), spec) for folder in policies]


class Running:
    """A server in a thread: `url`, and what is `served`, which only its own loop may touch."""

    def __init__(self, policy, weights_dir):
        self._policy, self._weights_dir, self._config = policy, weights_dir, config_of(policy)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        self._ready.wait()

    async def _serve(self):
        self.loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        try:
            async with (
                open_served(
                    str(self._policy), config_of(self._policy), weights_dir=self._weights_dir
                ) as self.served,
                Server(self.served, bind("127.0.0.1", 0), limits=Limits(grace_s=1.0)) as server,
            ):
                self.url = server.url
                self._ready.set()
                await self._ended.wait()
        finally:
            self._ready.set()

    def do(self, coroutine):
        """What a coroutine gives, run on the server's loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    def stop(self):
        self.loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()


@pytest.fixture(scope="session")
def weights_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="session")
def running(policies, weights_dir):
    server = Running(policies[0], weights_dir)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def trainer(spec):
    """Log-probs of the tokens from `start` on, by the trainer's forward pass."""
    import jax

    from mirothinker_jax.data.packing import Sample, pack_rows
    from mirothinker_jax.trainer.step import make_logprobs

    logprobs = make_logprobs(spec)

    def of(params, tokens, start):
        trained = np.arange(len(tokens)) >= start
        rows = pack_rows([Sample(np.asarray(tokens, np.int32), trained)], 512)
        with jax.set_mesh(spec.mesh):
            values = np.asarray(logprobs(params, rows))
        return values[rows.weights > 0]

    return of
