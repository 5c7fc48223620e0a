"""The servers that sample for a run: asked before anything is trained whether they can do what the run will want."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from mirothinker_jax.agent.policy import Sampling, evaluation_sampling
from mirothinker_jax.config import Config, ConfigError, check
from mirothinker_jax.models.spec import ModelSpec
from mirothinker_jax.rollout.hosts import RemoteHost
from mirothinker_jax.rollout.remote.engine import RemoteEngine, RemoteSettings, check_servers
from mirothinker_jax.rollout.remote.weights import WeightsFolder


def open_servers(config: Config, model: ModelSpec, end_ids: Sequence[int]) -> RemoteHost:
    """The host of the servers at config.rollout.urls. `model` is the one that is trained.

    Raises ConfigError, in one line, where one of them cannot be used.
    """
    c = config.rollout
    settings = RemoteSettings(
        urls=c.urls,
        protocol=c.protocol,
        key=_key(c.key_env),
        key_env=c.key_env,
        max_lag=c.max_lag,
        stale_keys=c.stale_keys,
        timeout_s=c.timeout_s,
        retries=c.retries,
    )
    can = asyncio.run(check_servers(settings, end_ids))
    samplings = [Sampling()]
    if config.evaluation.questions:
        samplings.append(evaluation_sampling(config.evaluation))
    for sampling in samplings:
        try:
            can.check(sampling, f"a server of rollout.urls ({', '.join(c.urls)})")
        except ValueError as error:
            raise ConfigError(f"config.{str(error).replace('sampling.', 'evaluation.')}") from None
    weights = WeightsFolder(Path(c.weights_dir or Path(config.run_dir) / "weights"), model, c.weights_dtype)
    return RemoteHost(lambda: RemoteEngine(settings, end_ids, weights.publish), weights)


def _key(name: str) -> str:
    """Raises ConfigError where the variable is named and not set."""
    key = os.environ.get(name, "") if name else ""
    check(
        bool(key) or not name,
        f"config.rollout.key_env: {name} is not set; export it, or leave the setting empty",
    )
    return key
