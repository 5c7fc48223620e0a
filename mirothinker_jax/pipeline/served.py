"""The policy of a run or of a Hugging Face folder, with an engine on this process's devices, ready to be served."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from mirothinker_jax.config import Config, check
from mirothinker_jax.models.hf_files import Folder
from mirothinker_jax.models.hf_load import load_params
from mirothinker_jax.pipeline.local_policy import open_model
from mirothinker_jax.rollout.local.driver import LocalEngine
from mirothinker_jax.serving.policy import Served
from mirothinker_jax.tools.build import SERVERS


@contextlib.asynccontextmanager
async def open_served(
    where: str, config: Config, name: str = "", weights_dir: Path | None = None
) -> AsyncIterator[Served]:
    """The policy at `where`, with the settings of `starting_values`, and an engine on this event loop. It takes new
    weights from below `weights_dir`, where that is given.

    Raises ConfigError where there is none, or it does not fit the devices or the settings.
    """
    model = open_model(where, config)
    check(
        weights_dir is None or not model.spec.config.lora.rank,
        "--weights-dir: new weights have no adapters, and this model has; merge them with "
        "mirothinker_jax.convert --to hf",
    )
    async with LocalEngine(model.device(config), decode=model.tokenizer.decode) as engine:

        async def reload(folder: Path, version: int) -> None:
            params = await asyncio.to_thread(lambda: load_params(Folder(folder), model.spec))
            await engine.publish(params, version)

        yield Served(
            name=name or Path(where).resolve().name,
            engine=engine,
            codec=model.tokenizer,
            servers=SERVERS,
            call_format=config.data.call_format,
            end_ids=frozenset(model.end_ids),
            context_tokens=config.agent.context_tokens,
            vocab_size=model.spec.vocab_size,
            reload=reload,
            weights_dir=weights_dir,
        )
